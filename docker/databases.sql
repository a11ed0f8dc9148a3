-- Run once, on an empty volume: the ledger's database is made by the image, these are of Prefect, MLflow and Feast.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
CREATE DATABASE feast;
