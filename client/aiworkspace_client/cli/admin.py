"""aiws admin: what operators of the server do with organizations, servers and background jobs."""

from itertools import islice
from typing import Annotated

import typer

from aiworkspace_client.cli import failures, output
from aiworkspace_client.cli.account import Json
from aiworkspace_client.cli.session import connected
from aiworkspace_client.types import AdminOrg, Job, JobState, OrgState, Server

app = typer.Typer(no_args_is_help=True, help="The server as a whole. For operators, whom its command line appoints.")

_VERIFY_SECONDS = 600.0

Count = Annotated[int, typer.Option("--count", "-n", min=1, help="Most of them to show.")]
Reason = Annotated[str, typer.Option("--reason", prompt="Reason", help="Why. Members see why they are suspended.")]


@app.command()
def orgs(
    ctx: typer.Context,
    suspended: Annotated[bool, typer.Option("--suspended", help="Only those that are suspended.")] = False,
    count: Count = 50,
    json: Json = False,
) -> None:
    """List all organizations, the oldest first."""
    state = OrgState.ORG_STATE_SUSPENDED if suspended else OrgState.ORG_STATE_UNSPECIFIED
    with connected(ctx) as session:
        found = list(islice(session.client.admin.list_all_orgs(state=state, page_size=min(count, 1000)), count))
        if json:
            return output.as_json(found)
        output.table(
            ("ORGANIZATION", "NAME", "STATE", "MEMBERS", "CREATED", "REASON"), map(_org_row, found), right=("MEMBERS",)
        )


@app.command()
def suspend(ctx: typer.Context, org_id: str, reason: Reason, json: Json = False) -> None:
    """Suspend an organization: its calls are refused, and its answers in progress cancelled. Nothing is deleted."""
    with connected(ctx) as session:
        org = session.client.admin.suspend_org(org_id=org_id, reason=reason)
        if json:
            return output.as_json(org)
        output.say(f"{org.name} is suspended.", "green")


@app.command()
def reinstate(ctx: typer.Context, org_id: str, reason: Reason, json: Json = False) -> None:
    """End the suspension of an organization."""
    with connected(ctx) as session:
        org = session.client.admin.reinstate_org(org_id=org_id, reason=reason)
        if json:
            return output.as_json(org)
        output.say(f"{org.name} is active.", "green")


@app.command()
def servers(ctx: typer.Context, json: Json = False) -> None:
    """List the server processes that run now."""
    with connected(ctx) as session:
        found = session.client.admin.list_servers()
        if json:
            return output.as_json(found)
        columns = ("SERVER", "NAME", "VERSION", "ADDRESS", "STARTED", "RUNS", "")
        output.table(columns, map(_server_row, found), right=("RUNS",))


@app.command()
def jobs(
    ctx: typer.Context,
    task: Annotated[str, typer.Option("--task", help="Only jobs that do this, such as erasure.org.")] = "",
    state: Annotated[str, typer.Option("--state", help="Only waiting, running, stopping, failed or cancelled.")] = "",
    count: Count = 50,
    json: Json = False,
) -> None:
    """List background jobs, the latest first."""
    if state and f"JOB_STATE_{state.upper()}" not in JobState.keys()[1:]:
        raise typer.BadParameter(f"{state!r} is not a state: waiting, running, stopping, failed or cancelled.")
    wanted = JobState.Value(f"JOB_STATE_{state.upper() or 'UNSPECIFIED'}")
    with connected(ctx) as session:
        pager = session.client.admin.list_jobs(task=task, state=wanted, page_size=min(count, 1000))
        found = list(islice(pager, count))
        if json:
            return output.as_json(found)
        columns = ("JOB", "TASK", "STATE", "ATTEMPTS", "ORGANIZATION", "CREATED", "DUE")
        output.table(columns, map(_job_row, found), right=("ATTEMPTS",))


@app.command("retry-job")
def retry_job(ctx: typer.Context, job_id: str, json: Json = False) -> None:
    """Make a job due now that failed, was cancelled, or waits for its next attempt."""
    with connected(ctx) as session:
        job = session.client.admin.retry_job(job_id)
        if json:
            return output.as_json(job)
        output.say(f"{job.task} is {output.word(JobState.Name, job.state)}.", "green")


@app.command("cancel-job")
def cancel_job(ctx: typer.Context, job_id: str, json: Json = False) -> None:
    """Cancel a job that waits, or interrupt one that runs."""
    with connected(ctx) as session:
        job = session.client.admin.cancel_job(job_id)
        if json:
            return output.as_json(job)
        output.say(f"{job.task} is {output.word(JobState.Name, job.state)}.", "green")


@app.command()
def log(
    ctx: typer.Context,
    about: Annotated[str, typer.Option("--about", help="Only calls about this id, whatever it names.")] = "",
    count: Count = 50,
    json: Json = False,
) -> None:
    """List what operators did, the latest first."""
    with connected(ctx) as session:
        pager = session.client.audit.list_operator_events(resource_id=about, page_size=min(count, 1000))
        found = list(islice(pager, count))
        if json:
            return output.as_json(found)
        rows = (
            (str(e.sequence), output.time(e.create_time), e.user_id, e.method, f"{e.code} {e.reason}".strip())
            for e in found
        )
        output.table(("NUMBER", "TIME", "WHO", "METHOD", "OUTCOME"), rows, right=("NUMBER",))


@app.command()
def verify(ctx: typer.Context, json: Json = False) -> None:
    """Check that no entry of the operators' log was changed or removed. The exit code is 1 if one was."""
    with connected(ctx) as session:
        verified = session.client.audit.verify_operator_chain(timeout=_VERIFY_SECONDS)
        if json:
            output.as_json(verified)
        else:
            output.table(("NUMBER", "HASH"), [(str(verified.sequence), verified.hash)], right=("NUMBER",))
        if not verified.valid:
            output.say(f"Entry {verified.broken_sequence} is invalid. {verified.problem}", "bold red")
            raise typer.Exit(failures.REFUSED)
        output.say("All entries are unchanged.", "green")


def _org_row(org: AdminOrg) -> tuple[str, ...]:
    state = output.word(OrgState.Name, org.state)
    return org.org_id, org.name, state, str(org.member_count), output.time(org.create_time), org.state_reason


def _server_row(server: Server) -> tuple[str, ...]:
    start, draining = output.time(server.start_time), "draining" if server.draining else ""
    return server.server_id, server.name, server.version, server.address, start, str(server.run_count), draining


def _job_row(job: Job) -> tuple[str, ...]:
    state, due = output.word(JobState.Name, job.state), output.time(job.due_time)
    return job.job_id, job.task, state, str(job.attempt_count), job.org_id, output.time(job.create_time), due
