"""All tables of all domains, for Alembic."""

import aiworkspace_server.accounts.models
import aiworkspace_server.audit.models
import aiworkspace_server.auth.models
import aiworkspace_server.auth.operators
import aiworkspace_server.budgets.models
import aiworkspace_server.data_life.exports.models
import aiworkspace_server.documents.models
import aiworkspace_server.events.models
import aiworkspace_server.orgs.holds
import aiworkspace_server.orgs.models
import aiworkspace_server.policies.models
import aiworkspace_server.runs.tables
import aiworkspace_server.search.tables
import aiworkspace_server.service_accounts.models
import aiworkspace_server.usage.models
import aiworkspace_server.webhooks.models
import aiworkspace_server.workspaces.models  # noqa: F401 - imported for the tables that they define

from .kit.postgres import Base

metadata = Base.metadata
