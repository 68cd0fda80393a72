"""What holds of identity, tenancy, money, streams and faults, and the tests that show it."""

from collections.abc import Sequence

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
        "runs/test_runs.py::test_the_same_request_a_hundred_times_at_once_is_one_run",
        "runs/test_replicas.py::test_the_same_request_sent_to_both_servers_is_one_run",
    ),
    "20 a reservation ends once, and with its lease": (
        "usage/test_ledger.py::test_a_reservation_is_ended_once",
        "runs/test_interleavings.py::test_a_reservation_whose_commit_got_no_answer_is_taken_back",
        "runs/test_interleavings.py::test_what_another_server_reserved_ends_with_the_run",
        "runs/test_replicas.py::test_a_run_whose_server_is_killed_is_ended_by_another",
        f"{_EXPERIMENT}[kill -9 of one of two at any moment]",
    ),
    "21 a run that is stopped pays for what was said": (
        f"{_EXPERIMENT}[clients cancel at any token]",
        "runs/test_runs.py::test_cancel_stops_the_provider_and_bills_what_was_said",
        "runs/test_runs.py::test_cancel_after_n_pieces_charges_no_less_than_n_tokens",
        "runs/test_endings.py::test_a_killed_run_is_charged_for_the_pieces_that_were_stored",
        "runs/test_runs.py::test_a_failure_in_the_middle_keeps_and_bills_what_was_said",
    ),
    "22 every attempt that was billed is in the ledger": (
        f"{_EXPERIMENT}[another model goes on with an answer]",
        f"{_EXPERIMENT}[another model is asked beside]",
        "runs/test_attempts.py::test_a_provider_that_fails_before_it_speaks_is_tried_again",
        "runs/test_fallback.py::test_silence_falls_back_at_once_and_both_are_billed",
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
        "runs/test_runs.py::test_every_suffix_of_a_run_that_ended_can_be_read_again",
        "runs/test_endings.py::test_of_two_who_end_a_run_the_first_counts",
        "runs/test_replicas.py::test_twenty_readers_of_both_servers_get_the_same",
        _EXPERIMENT,
    ),
    "26 another model answers before content, or announced": ("runs/test_fallback.py", "runs/test_fallback_policy.py"),
    "27 four clocks fire while pings arrive": (
        "llm/test_streams.py::test_the_clock_for_connecting",
        "llm/test_streams.py::test_the_clock_for_the_first_content",
        "llm/test_streams.py::test_the_clock_between_content",
        "runs/test_attempts.py::test_the_clock_of_the_run_fires_while_pings_arrive",
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
        "runs/test_crash.py",
        "runs/test_endings.py::test_what_a_crash_leaves_of_an_end_is_made_up_for",
        "runs/test_endings.py::test_a_run_that_was_stored_in_part_does_not_hold_its_conversation",
        "runs/test_interleavings.py",
        "runs/test_replicas.py::test_a_server_that_wakes_up_too_late_does_no_harm",
        "runs/test_replicas.py::test_both_go_on_when_redis_is_gone",
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
        "runs/test_rights.py",
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
        "runs/test_attempts.py::test_what_one_organization_provokes_shuts_out_no_other",
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
