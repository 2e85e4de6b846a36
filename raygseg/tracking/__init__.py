"""MLflow: runs, the model registry, model cards. The only floor that imports mlflow."""
