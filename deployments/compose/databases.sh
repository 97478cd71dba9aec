#!/bin/bash
# Run once by PostgreSQL's image on an empty volume: a role and a database for each service, none for all.
set -euo pipefail
make() { # ROLE PASSWORD-FILE DATABASE...
  local role=$1 password
  password=$(cat "/run/secrets/$2")
  PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") psql --username postgres --no-password -v ON_ERROR_STOP=1 \
    -v role="$role" -v password="$password" <<<"CREATE ROLE :\"role\" LOGIN PASSWORD :'password';"
  for database in "${@:3}"; do
    PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE") psql --username postgres --no-password -v ON_ERROR_STOP=1 \
      -v role="$role" -v database="$database" <<'SQL'
CREATE DATABASE :"database" OWNER :"role";
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
SQL
  done
}
make state state_db_password robustidps
make mlflow mlflow_db_password mlflow mlflow_auth
make prefect prefect_db_password prefect
