#!/bin/bash
# Run once, when the database is made: the login with which servers work. It owns nothing, and may be what the migration
# makes of the role aiworkspace_app.
set -euo pipefail
psql -v ON_ERROR_STOP=1 -v password="$POSTGRES_SERVER_PASSWORD" -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
CREATE EXTENSION IF NOT EXISTS vector;
CREATE ROLE aiworkspace_app NOLOGIN;
CREATE ROLE aiworkspace_server LOGIN PASSWORD :'password' IN ROLE aiworkspace_app;
SQL
