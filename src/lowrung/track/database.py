"""MLflow's store in a database, imported whole, with its tables mapped: 0.3 s, which MLflow takes at first use."""

import alembic.command  # noqa: F401
import sqlalchemy.dialects.sqlite  # noqa: F401
from mlflow.store.tracking import sqlalchemy_store  # noqa: F401
from sqlalchemy.orm import configure_mappers

configure_mappers()
