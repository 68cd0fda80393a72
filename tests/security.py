"""What shows that the product is safe: `make security` runs these tests alone and tells of each class and invariant.

Every class of vulnerabilities that has to do with identity, tenancy and money, and every invariant of these, of streams
and of faults, names its tests: a file, or one test of a file, also with one of its parameters. One that names a test
which is gone, or which has none that passed, fails the command.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

CLASSES: dict[str, Sequence[str]] = {
    "reading or changing another tenant's things": (
        "contracts/test_matrix.py",
        "contracts/test_catalog.py",
        "contracts/test_membership_model.py",
        "kit/test_postgres.py",
        "kit/test_mongo.py",
        "audit/test_entries.py::test_two_organizations_have_nothing_in_common",
        "service_accounts/test_use.py::test_a_limited_key_knows_of_its_workspaces_alone",
    ),
    "stopping or reading another's running answer": ("contracts/test_foreign_runs.py",),
    "privilege escalation": (
        "access/test_role_names.py",
        "contracts/test_names.py",
        "contracts/test_access_table.py",
        "contracts/test_escalation.py",
        "access/test_roles.py",
        "orgs/test_role_choice.py",
        "orgs/test_members.py::test_who_may_make_whom_what",
        "orgs/test_suspension.py",
        "service_accounts/test_handing_out.py",
        "service_accounts/test_origins.py",
        "service_accounts/test_scopes.py",
        "workspaces/test_granting.py",
    ),
    "mass assignment": ("contracts/test_mass_assignment.py",),
    "default or weak secrets, auth bypass": (
        "kit/test_settings.py",
        "test_listening.py::test_tls_file_that_is_none_is_named_as_what_it_is",
        "test_listening.py::test_all_workers_read_certificates_again_on_hang_up_and_do_not_use_bad_ones",
        "auth/test_keys.py",
        "auth/test_headers.py",
        "auth/test_cookies.py",
        "service_accounts/test_form.py",
        "contracts/test_access.py::test_no_method_works_without_a_good_token",
        "auth/test_tokens.py::test_the_token_is_taken_from_one_authorization_header_alone",
    ),
    "JWT confusion": ("auth/test_tokens.py",),
    "sessions that survive": (
        "accounts/test_change_email.py::test_the_session_that_asked_goes_on_and_others_end",
        "accounts/test_deletion.py::test_every_session_ends_and_the_address_can_be_registered_again",
        "auth/test_sessions.py",
        "accounts/test_change_email.py::test_a_new_password_ends_the_change_that_a_thief_asked_for",
        "accounts/test_reset.py::test_it_sets_the_password_and_ends_all_sessions",
        "chat/test_lost_access.py",
        "orgs/test_members.py::test_a_removal_counts_from_the_next_call_on",
        "orgs/test_members.py::test_a_demotion_counts_from_the_next_call_on",
        "orgs/test_suspension.py::test_for_a_suspended_member_the_organization_does_not_exist",
        "orgs/test_suspension.py::test_the_keys_of_a_suspended_service_account_do_not_work",
        "service_accounts/test_scopes.py::test_a_key_that_has_ended_is_like_no_key_at_all",
    ),
    "enumeration and guessing": (
        "workspaces/test_closed.py",
        "auth/test_passwords.py",
        "auth/test_throttle.py",
        "auth/test_accounts.py::test_an_unknown_address_is_refused_as_a_wrong_password_is",
        "auth/test_registration.py::test_registering_an_address_that_is_taken_hashes_nothing_and_leaves_nothing_in_its_log",
        "accounts/test_reset.py::test_known_and_unknown_addresses_are_answered_alike",
    ),
    "accounts for everybody, on the operator's keys": (
        "auth/test_registration.py::test_only_who_is_invited_registers_and_nothing_tells_who_has_an_account",
        "auth/test_registration.py::test_on_a_closed_server_the_operator_alone_makes_accounts",
        "auth/test_registration.py::test_an_account_that_is_not_verified_does_not_spend",
    ),
    "mail to strangers": (
        "orgs/test_mail.py",
        "kit/test_mail.py::test_a_name_makes_no_link_and_does_not_end_its_quotation",
        "kit/test_mail.py::test_mail_that_can_never_be_delivered_is_logged_once_and_dropped",
    ),
    "one account under several spellings": ("contracts/test_typed.py", "auth/test_spellings.py"),
    "NoSQL and SQL injection": ("contracts/test_corpora.py", "kit/test_sql.py"),
    "limits by address that a proxy or a header changes": ("kit/test_addresses.py",),
    "denial of service": (
        "auth/test_failures.py",
        "contracts/test_fuzz.py",
        "contracts/test_input.py",
        "contracts/test_largest_requests.py",
        "kit/test_limits.py",
        "kit/test_requests.py",
    ),
    "races": (
        "accounts/test_change_email.py::test_of_many_accounts_at_once_one_gets_the_address",
        "accounts/test_deletion.py::test_fifty_calls_at_once_delete_once",
        "accounts/test_deletion.py::test_of_two_owners_who_delete_their_accounts_at_once_one_stays",
        "auth/test_cookies.py::test_fifty_refreshes_by_cookie_at_once_give_one_live_child",
        "accounts/test_reset.py::test_of_fifty_callers_at_once_one_succeeds",
        "accounts/test_verification.py::test_of_fifty_callers_at_once_one_makes_the_change",
        "orgs/test_orgs.py::test_fifty_concurrent_calls_with_one_request_id_make_one_organization",
        "orgs/test_invitations.py::test_of_two_invitations_accepted_at_once_one_counts",
        "orgs/test_suspension.py::test_fifty_who_unmake_owners_at_once_leave_one",
        "service_accounts/test_api_keys.py::test_fifty_rotations_at_once_end_the_old_key_once",
        "teams/test_teams.py::test_fifty_at_once_come_in_once",
        "workspaces/test_sharing.py::test_of_fifty_removals_one_removes",
        "audit/test_chain.py::test_fifty_calls_at_once_leave_one_chain",
    ),
    "deleted content that stays": (
        "erasure/test_canaries.py",
        "erasure/test_jobs.py",
        "accounts/test_deletion.py",
        "contracts/test_idempotency.py",
        "contracts/test_deleted_between_pages.py",
    ),
    "leaked secrets": (
        "auth/test_secrecy.py",
        "llm/test_secrets.py",
        "llm/test_proxy.py::test_model_on_loopback_is_asked_without_the_proxy",
        "kit/test_embedded.py::test_databases_get_none_of_the_servers_secrets",
        "kit/test_embedded.py::test_a_program_that_sets_up_a_database_gets_no_secret_either",
        "kit/test_embedded.py::test_nobody_else_gets_in",
        "kit/test_settings.py::test_malformed_address_is_named_without_its_password",
        "test_listening.py::test_key_in_place_of_a_path_is_not_shown",
        "service_accounts/test_secrecy.py",
        "accounts/test_verification.py::test_the_token_is_stored_as_its_hash_alone",
        "orgs/test_invitations.py::test_the_token_is_stored_nowhere_and_listed_nowhere",
    ),
}

# Each of its parameters is an experiment. `make faults` does more of them.
_EXPERIMENT = "faults/test_faults.py::test_nothing_is_lost_and_the_ledger_is_the_bill"

INVARIANTS: dict[str, Sequence[str]] = {
    "1 fifty refreshes of one token give one live child": (
        "auth/test_sessions.py::test_fifty_refreshes_at_once_give_one_live_child",
        "auth/test_cookies.py::test_fifty_refreshes_by_cookie_at_once_give_one_live_child",
    ),
    "2 a token used again later ends its sessions": (
        "auth/test_sessions.py::test_a_used_token_that_comes_back_later_ends_the_session_for_good",
        "auth/test_sessions.py::test_a_token_from_before_the_last_one_ends_the_session_at_once",
    ),
    "3 a lost reply repeated gives the same child": (
        "auth/test_sessions.py::test_a_refresh_that_is_repeated_at_once_gives_the_same_tokens",
    ),
    "4 a new password ends other sessions and streams": (
        "auth/test_sessions.py::test_a_new_password_ends_all_other_sessions_at_once",
        "chat/test_lost_access.py::test_a_stream_ends_with_the_access_of_its_reader",
    ),
    "5 suspension, removal, downgrade end access": (
        "orgs/test_suspension.py::test_for_a_suspended_member_the_organization_does_not_exist",
        "orgs/test_suspension.py::test_the_keys_of_a_suspended_service_account_do_not_work",
        "orgs/test_members.py::test_a_removal_counts_from_the_next_call_on",
        "orgs/test_members.py::test_a_demotion_counts_from_the_next_call_on",
        "contracts/test_ended_elsewhere.py",
        "chat/test_lost_access.py::test_what_a_member_had_in_progress_is_cancelled_with_their_access",
    ),
    "6 rotating signing keys fails no call": ("auth/test_rotation.py",),
    "7 guessing neither locks out nor reaches the hash": ("auth/test_throttle.py",),
    "8 a storm of logins leaves other calls fast": (
        "auth/test_throttle.py::test_a_known_device_does_not_wait_for_the_guesses_of_strangers",
        "auth/test_passwords.py::test_fifty_logins_at_once_leave_health_checks_fast",
    ),
    "9 one account, and one owner left": (
        "auth/test_accounts.py::test_of_fifty_registrations_of_one_address_at_once_one_succeeds",
        "orgs/test_members.py::test_fifty_demotions_at_once_leave_one_owner",
        "orgs/test_members.py::test_two_owners_who_go_at_the_same_time_leave_one",
    ),
    "10 an invitation is accepted once": (
        "orgs/test_invitations.py::test_an_invitation_is_accepted_once",
        "orgs/test_invitations.py::test_an_invitation_expires",
        "orgs/test_invitations.py::test_a_withdrawn_invitation_is_not_accepted",
        "orgs/test_invitations.py::test_withdrawn_and_accepted_at_once_it_is_one_of_the_two",
    ),
    "11 no start with a method that declares no access": (
        "contracts/test_access.py::test_every_method_declares_its_access",
        "contracts/test_access.py::test_a_method_without_access_stops_the_server",
        "contracts/test_access.py::test_what_the_server_reads_is_all_that_it_serves",
    ),
    "12 a foreign id is as good as a random one": ("contracts/test_matrix.py",),
    "13 a refused call has no side effect": (
        "contracts/test_matrix.py::test_foreign_ids_are_as_unknown_as_random_ones",
        "contracts/test_corpora.py::test_an_odd_id_is_named_or_not_known",
    ),
    "14 listed exactly when it can be got": (
        "contracts/test_membership_model.py",
        "orgs/test_orgs.py::test_a_list_of_organizations_has_those_that_one_can_get",
        "workspaces/test_granting.py::test_a_key_lists_what_it_can_get",
        "workspaces/test_workspaces.py::test_pages_of_workspaces_add_up",
    ),
    "15 without a tenant PostgreSQL shows no rows": (
        "kit/test_postgres.py::test_without_a_tenant_there_are_no_rows",
        "contracts/test_catalog.py::test_the_schema_keeps_tenants_apart",
    ),
    "16 every MongoDB command names the organization": (
        "kit/test_mongo.py::test_every_command_names_the_organization",
    ),
    "17 after any fault the ledger is the provider's bill": (
        _EXPERIMENT,
        "usage/test_ledger.py::test_entries_rollups_and_budgets_agree_after_anything",
    ),
    "18 settled and reserved stay within the limit": (
        f"{_EXPERIMENT}[a hundred runs at once, a budget for ten]",
        "budgets/test_counting.py::test_of_a_hundred_messages_at_once_those_run_that_fit",
        "usage/test_ledger.py::test_budgets_and_rollups_hold_at_a_hundred_runs_at_once",
        "llm/test_tokens.py",
        "llm/test_streams.py::test_what_is_estimated_is_no_more_than_was_allowed",
    ),
    "19 a request sent a hundred times is one": (
        "budgets/test_counting.py::test_the_same_message_a_hundred_times_is_asked_and_paid_once",
        "chat/test_runs.py::test_the_same_request_a_hundred_times_at_once_is_one_run",
        "chat/test_replicas.py::test_the_same_request_sent_to_both_servers_is_one_run",
    ),
    "20 a reservation ends once, and with its lease": (
        "usage/test_ledger.py::test_a_reservation_is_ended_once",
        "chat/test_interleavings.py::test_a_reservation_whose_commit_got_no_answer_is_taken_back",
        "chat/test_interleavings.py::test_what_another_server_reserved_ends_with_the_run",
        "chat/test_replicas.py::test_a_run_whose_server_is_killed_is_ended_by_another",
        f"{_EXPERIMENT}[kill -9 of one of two at any moment]",
    ),
    "21 a run that is stopped pays for what was said": (
        f"{_EXPERIMENT}[clients cancel at any token]",
        "chat/test_runs.py::test_cancel_stops_the_provider_and_bills_what_was_said",
        "chat/test_runs.py::test_cancel_after_n_pieces_charges_no_less_than_n_tokens",
        "chat/test_endings.py::test_a_killed_run_is_charged_for_the_pieces_that_were_stored",
        "chat/test_runs.py::test_a_failure_in_the_middle_keeps_and_bills_what_was_said",
    ),
    "22 every attempt that was billed is in the ledger": (
        f"{_EXPERIMENT}[another model goes on with an answer]",
        f"{_EXPERIMENT}[another model is asked beside]",
        "chat/test_attempts.py::test_a_provider_that_fails_before_it_speaks_is_tried_again",
        "chat/test_fallback.py::test_silence_falls_back_at_once_and_both_are_billed",
    ),
    "23 no unknown price or absurd usage goes unmarked": (
        f"{_EXPERIMENT}[provider counts nothing, or nonsense]",
        "llm/test_prices.py::test_an_unknown_price_is_never_zero",
        "llm/test_prices.py::test_usage_that_cannot_be_true_is_refused",
        "llm/test_streams.py::test_usage_that_cannot_be_true_is_estimated",
        "llm/test_streams.py::test_a_last_count_that_cannot_be_true_is_estimated",
        "usage/test_usage.py::test_entries_say_by_which_prices_they_were_computed",
    ),
    "24 entries never change, roll-ups come from them": (
        "usage/test_utc.py",
        "usage/test_ledger.py::test_the_server_cannot_change_what_is_written",
        "usage/test_ledger.py::test_rebuilding_changes_nothing_that_is_right",
        "usage/test_ledger.py::test_rebuilding_makes_right_what_is_wrong",
    ),
    "25 one terminal event; a run resumes where one was": (
        "chat/test_runs.py::test_every_suffix_of_a_run_that_ended_can_be_read_again",
        "chat/test_endings.py::test_of_two_who_end_a_run_the_first_counts",
        "chat/test_replicas.py::test_twenty_readers_of_both_servers_get_the_same",
        _EXPERIMENT,
    ),
    "26 another model answers before content, or announced": ("chat/test_fallback.py", "chat/test_course.py"),
    "27 four clocks fire while pings arrive": (
        "llm/test_streams.py::test_the_clock_for_connecting",
        "llm/test_streams.py::test_the_clock_for_the_first_content",
        "llm/test_streams.py::test_the_clock_between_content",
        "chat/test_attempts.py::test_the_clock_of_the_run_fires_while_pings_arrive",
    ),
    "28 a client that goes away leaves nothing behind": ("faults/test_vanished.py", "kit/test_vanishing.py"),
    "29 every call ends with a status": (
        "kit/test_interceptors.py::test_a_cancel_inside_a_handler_ends_the_call",
        "kit/test_requests.py::test_a_request_that_does_not_arrive_ends_with_a_status",
        "contracts/test_fuzz.py",
        "faults/test_faults.py::test_every_method_ends_with_a_status_while_a_database_is_gone",
    ),
    "30 unread streams hold little and slow nobody": (f"{_EXPERIMENT}[clients read nothing]",),
    "31 what was acknowledged outlives any kill": (
        _EXPERIMENT,
        "chat/test_crash.py",
        "chat/test_endings.py::test_what_a_crash_leaves_of_an_end_is_made_up_for",
        "chat/test_endings.py::test_a_run_that_was_stored_in_part_is_withdrawn",
        "chat/test_interleavings.py",
        "chat/test_replicas.py::test_a_server_that_wakes_up_too_late_does_no_harm",
        "chat/test_replicas.py::test_both_go_on_when_redis_is_gone",
    ),
    "36 no request holds the loop or costs much": (
        "contracts/test_largest_requests.py::test_no_request_holds_the_loop_or_costs_much",
        "contracts/test_largest_requests.py::test_no_request_to_an_open_service_costs_much",
        "contracts/test_largest_requests.py::test_a_request_above_its_methods_limit_is_refused_by_size",
        "audit/test_long_logs.py",
        "usage/test_long_bills.py",
    ),
    "37 calls, streams, buffered bytes are bounded": (
        "kit/test_requests.py",
        "test_exhaustion.py",
        "kit/test_limits.py::test_messages_to_reflection_and_calls_of_health_are_counted_by_address",
        "audit/test_chain.py::test_an_organization_whose_log_is_being_verified_holds_up_no_other",
        "service_accounts/test_many_keys.py",
        "erasure/test_reconcile.py",
        "chat/test_lost_access.py::test_one_check_serves_all_calls_that_the_same_things_allow",
    ),
    "38 a lost right starts and keeps no run": (
        "chat/test_rights.py",
        "accounts/test_change_email.py::test_who_was_removed_does_not_come_back_under_a_former_address",
        "orgs/test_second_invitation.py",
        "service_accounts/test_origins.py",
    ),
    "40 settled stays within the limit for every input": (
        "budgets/test_bound.py",
        "llm/test_tokens.py",
        "llm/test_prices.py::test_what_is_reserved_is_enough",
    ),
    "41 rotations and copies inherit limits": ("budgets/test_key_lines.py",),
    "42 an operator's keys pay what the operator allowed": (
        "budgets/test_allowance.py",
        "test_serve.py::test_databases_of_ones_own_without_an_allowance_are_refused",
    ),
    "43 limits by address hold behind a trusted proxy": ("kit/test_addresses.py",),
    "44 no tenant, model or provider changes another's result": (
        "chat/test_attempts.py::test_what_one_organization_provokes_shuts_out_no_other",
        "chat/test_large_answers.py",
        "chat/test_outgoing.py",
        "llm/test_breaker.py::test_no_failure_of_one_organization_shuts_out_another",
        "llm/test_breaker.py::test_no_failure_that_input_can_provoke_shuts_out_others",
        "llm/test_breaker.py::test_a_probe_that_hangs_does_not_keep_others_out",
        "llm/test_registry.py::test_a_list_that_is_none_harms_nobody",
        "llm/test_registry.py::test_a_local_server_that_hangs_is_not_waited_for",
        "llm/test_understanding.py",
    ),
    "45 no difference or step of clocks signs anybody out": (
        "auth/test_tokens.py::test_a_token_of_a_server_whose_clock_differs_by_less_than_a_minute_is_taken",
        "auth/test_tokens.py::test_a_clock_that_was_set_back_ends_access_tokens_alone",
        "auth/test_sessions.py::test_a_lost_reply_is_repeated_by_a_server_whose_clock_differs",
        "client/test_tokens.py::test_a_session_is_kept_until_the_server_says_that_it_has_ended",
    ),
    "39 what was deleted is stored nowhere": ("erasure/test_canaries.py", "erasure/test_jobs.py"),
}

SECTIONS = {"Classes": CLASSES, "Invariants": INVARIANTS}


class Report:
    """A plugin of pytest: keeps to the tests that are named above, and counts how they ended."""

    def __init__(self) -> None:
        self._outcomes: dict[str, str] = {}  # by the id of a test: passed, failed or skipped

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if any(_is_of(item.nodeid, name) for name in _names())]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        worse = {"passed": 0, "skipped": 1, "failed": 2}
        before = self._outcomes.get(report.nodeid, "passed")
        self._outcomes[report.nodeid] = max(before, report.outcome, key=worse.__getitem__)

    def lines(self, tests: dict[str, Sequence[str]]) -> tuple[list[str], bool]:
        """One line each, and whether all is well."""
        lines, well = [], True
        for name, wanted in tests.items():
            said, good = self._say(wanted)
            lines.append(f"  {name:<52} {said}")
            well &= good
        return lines, well

    def _say(self, wanted: Sequence[str]) -> tuple[str, bool]:
        gone = [name for name in wanted if not any(_is_of(test, name) for test in self._outcomes)]
        if gone or not wanted:
            return f"FAILED: no test {gone[0] if gone else 'is named'}", False
        ended = [how for test, how in self._outcomes.items() if any(_is_of(test, name) for name in wanted)]
        counts = [f"{ended.count(how)} {how}" for how in ("failed", "passed", "skipped") if how in ended]
        well = "failed" not in ended and "passed" in ended
        return ("" if well else "FAILED: ") + ", ".join(counts), well


def _names() -> set[str]:
    return {name for tests in SECTIONS.values() for names in tests.values() for name in names}


def _is_of(test: str, name: str) -> bool:
    """Whether the test's id is in the file, or is the one with or without parameters, that the name says."""
    wanted = f"tests/{name}"
    return test == wanted or test.startswith((f"{wanted}::", f"{wanted}["))


def _run_tests(arguments: Sequence[str]) -> bool:
    report = Report()
    files = sorted({f"tests/{name.partition('::')[0]}" for name in _names()})
    missing = [file for file in files if not (ROOT / file).exists()]
    present = [file for file in files if file not in missing]
    code = pytest.main(["-q", "--no-header", "--tb=short", "-r", "", *present, *arguments], plugins=[report])
    well = code == pytest.ExitCode.OK
    for section, tests in SECTIONS.items():
        lines, good = report.lines(tests)
        print(f"\n{section}", *lines, sep="\n")
        well &= good
    return well


def _run_bandit() -> bool:
    """Every finding is repaired, or justified where it is switched off."""
    folders = ["server", "client", "tools"]
    command = [sys.executable, "-m", "bandit", "-q", "-c", "pyproject.toml", "-r", *folders]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(f"  {'bandit: ' + ', '.join(folders):<52} {'FAILED' if ended.returncode else 'no findings'}")
    if ended.returncode:
        print(ended.stdout, ended.stderr)
    return ended.returncode == 0


def _run_pip_audit(strict: bool) -> bool:
    """Known vulnerabilities of the locked versions. Where the service cannot be reached, that is said, and no more."""
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service=osv", "--requirement=requirements.lock"]
    command += ["--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    title = "pip-audit: requirements.lock"
    try:
        packages = json.loads(ended.stdout)["dependencies"]
    except ValueError:
        away = "ConnectionError" in ended.stderr or "Timeout" in ended.stderr
        why = "the vulnerability service cannot be reached" if away else ended.stderr.strip().rpartition("\n")[2]
        print(f"  {title:<52} {'FAILED: ' if strict or not away else ''}not done, {why}")
        return away and not strict
    found = [f"{package['name']} {flaw['id']}" for package in packages for flaw in package.get("vulns", [])]
    unknown = sum("skip_reason" in package for package in packages)
    said = f"FAILED: {', '.join(found)}" if found else f"{len(packages) - unknown} packages, none with a known flaw"
    print(f"  {title:<52} {said}{f', {unknown} not known to the service' if unknown else ''}")
    return not found and not (strict and unknown)


def main(arguments: Sequence[str]) -> int:
    """`--strict`: fail too when the vulnerability service cannot be reached. Other arguments are pytest's."""
    strict = "--strict" in arguments
    well = _run_tests([argument for argument in arguments if argument != "--strict"])
    print("\nTools")
    well &= _run_bandit()
    well &= _run_pip_audit(strict)
    print("\nEverything holds." if well else "\nFAILED: not everything holds.")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
