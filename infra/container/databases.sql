-- Run once, when PostgreSQL starts on an empty volume. The database `paretovid` (studies) is there already.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_users;
