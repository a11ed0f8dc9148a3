-- Run once, on an empty volume: the ledger's database is made by the image, these are of Prefect and MLflow.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
