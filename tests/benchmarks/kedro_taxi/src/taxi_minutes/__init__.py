"""How long a taxi trip takes: the pipeline of the taxi model written plainly in Kedro, pandera and MLflow."""
