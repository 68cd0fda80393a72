"""Builds the domains from the bottom up, and the services on top of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from .access.authorize import Access
from .access.build import build as build_access
from .accounts.build import build as build_accounts
from .accounts.build import build_mails
from .accounts.jobs import TokenMails
from .accounts.service import end_mailed
from .admin.build import build as build_admin
from .audit.build import Audit
from .audit.build import build as build_audit
from .auth.authority import actor_of
from .auth.build import Auth
from .auth.build import build as build_auth
from .auth.keys import Keys
from .budgets.build import build as build_budgets
from .budgets.build import build_alerts
from .budgets.service import count_new_org
from .chat.build import Chat
from .chat.build import build as build_chat
from .chat.build import finders as chat_finders
from .data_life.build import build as build_data
from .data_life.exports.store import has_file as is_export
from .databases import Databases
from .documents.build import Documents
from .documents.build import build as build_documents
from .documents.build import finders as document_finders
from .documents.content import Files
from .documents.store import are_collections
from .embedding.build import Embedding
from .erasure.build import build as build_erasure
from .events.build import Events
from .events.build import build as build_events
from .kit.contract import Method
from .kit.mongo import Mongo
from .kit.platform import Platform
from .kit.stores import retry_until_available
from .kit.tasks import Tasks
from .llm.registry import Registry
from .orgs import service as orgs
from .orgs.build import build as build_orgs
from .orgs.servicer import RightsLost
from .policies.build import Policies
from .policies.build import build as build_policies
from .rpc import Services, read_surface
from .runs.build import RunEngine
from .runs.build import build as build_runs
from .runs.cancellation import Cancellation
from .search.build import build as build_search
from .search.open_questions import OpenQuestions
from .search.query import Search
from .service_accounts.build import build as build_service_accounts
from .service_accounts.service import revoke_made_by
from .teams.build import build as build_teams
from .usage.build import Usage
from .usage.build import build as build_usage
from .webhooks.build import Webhooks
from .webhooks.build import build as build_webhooks
from .workspaces.build import build as build_workspaces
from .workspaces.members import check_may_take_all
from .workspaces.service import WorkspaceFinder


@dataclass(frozen=True, slots=True)
class Parts:
    """The domains on which others depend."""

    mongo: Mongo
    files: Files
    policies: Policies
    usage: Usage
    mails: TokenMails
    auth: Auth
    audit: Audit
    events: Events
    webhooks: Webhooks
    workspaces: WorkspaceFinder
    access: Access
    methods: Mapping[str, Method]
    engine: RunEngine
    chat: Chat
    documents: Documents
    search: Search


def build_parts(
    platform: Platform,
    keys: Keys,
    mongo: Mongo,
    files: Files,
    registry: Registry,
    embedding: Embedding,
    where: Databases,
) -> Parts:
    """Build the domains from the bottom up. A domain that needs a higher one gets a callable of it."""
    settings, db, jobs = platform.settings, platform.db, platform.jobs
    policies = build_policies(platform, registry)
    build_alerts(db, jobs, platform.mailer)
    usage = build_usage(platform)
    mails = build_mails(settings, db, jobs, platform.mailer)
    auth = build_auth(platform, keys, mails.ask_verification, end_mailed)
    audit = build_audit(platform, actor_of)
    events = build_events(platform)
    webhooks = build_webhooks(platform)
    workspaces = WorkspaceFinder(db)
    access = _build_access(platform, mongo, auth, workspaces)
    search = build_search(settings, db, embedding.embedders, usage.ledger, platform.tasks)
    OpenQuestions(db, usage.ledger).register(jobs)
    documents = build_documents(platform, mongo, files, embedding, search, usage.ledger, where.owner_url, is_export)
    engine = build_runs(platform, mongo, usage.ledger, policies.plans, documents.access, where.redis_url)
    chat = build_chat(platform, mongo, registry, policies, engine, access.authorize_again)
    methods = read_surface(access)
    return Parts(
        mongo,
        files,
        policies,
        usage,
        mails,
        auth,
        audit,
        events,
        webhooks,
        workspaces,
        access,
        methods,
        engine,
        chat,
        documents,
        search,
    )


def _build_access(platform: Platform, mongo: Mongo, auth: Auth, workspaces: WorkspaceFinder) -> Access:
    """Build the check of every call. It finds the organization of what a call names."""
    return Access(
        platform.db,
        auth.credentials.authenticator,
        {
            "workspace_id": workspaces.find,
            **chat_finders(mongo, workspaces),
            **document_finders(platform.db, workspaces),
        },
        verified_email_required=platform.settings.verified_email_required,
    )


def build_services(platform: Platform, parts: Parts) -> Services:
    """Build the gRPC server."""
    auth, access, methods, policies = parts.auth, parts.access, parts.methods, parts.policies
    erasure = build_erasure(platform, parts.mongo, parts.chat.eraser, parts.documents.eraser)
    rights_lost = _rights_lost(parts.workspaces, parts.engine.cancellation, platform.tasks)
    return Services(
        auth=auth.servicer,
        accounts=build_accounts(
            platform,
            auth,
            parts.mails,
            give_up=orgs.give_up_address,
            leave=orgs.leave_all,
            left=rights_lost,
            erase=erasure.ask_account,
        ),
        orgs=build_orgs(
            platform,
            auth,
            created=partial(count_new_org, allowance_nanos=platform.settings.allowance_nanos),
            rights_lost=rights_lost,
            erase=erasure.ask_org,
            check_places=check_may_take_all,
            revoke_made=revoke_made_by,
        ),
        teams=build_teams(platform, parts.workspaces, rights_lost=rights_lost),
        access=build_access(platform, auth, access, methods, rights_lost=rights_lost),
        service_accounts=build_service_accounts(platform, auth, rights_lost=rights_lost, erase=erasure.ask_account),
        workspaces=build_workspaces(
            platform,
            policies.providers,
            parts.workspaces,
            rights_lost=rights_lost,
            erase=erasure.ask_workspace,
            are_collections=are_collections,
        ),
        models=policies.servicer,
        chat=parts.chat.servicer,
        documents=parts.documents.servicer,
        usage=parts.usage.servicer,
        budgets=build_budgets(platform, policies.plans, methods),
        audit=parts.audit.servicer,
        admin=build_admin(platform, auth, rights_lost=rights_lost),
        data=build_data(
            platform, parts.mongo, parts.files, parts.chat.eraser, parts.documents.eraser, erasure, auth.notices
        ),
        events=parts.events.servicer,
        webhooks=parts.webhooks.servicer,
    )


def _rights_lost(workspaces: WorkspaceFinder, cancellation: Cancellation, tasks: Tasks) -> RightsLost:
    """Return the function to call after a committed change that took rights away."""

    async def rights_lost(org_id: UUID) -> None:
        """Cancel the runs whose owners have lost the right to them.

        If the process dies before this, the servers of those runs stop them within a second.
        """
        workspaces.forget_all()
        await tasks.complete(retry_until_available(lambda: cancellation.cancel_unentitled(org_id)))

    return rights_lost
