"""What clients of LMX rely on, and the tests that hold the daemon to it.

Each promise stands beside the tests that check it, as ``folder/module::function``. Here is what a
client needs to connect, to chat and to manage models (P0); `tests.contract_more` has the rest
(P1). `tests/unit/test_contract.py` checks that the tests exist and that the routes do.
"""

from collections.abc import Mapping

Promises = Mapping[str, str]

RULES: Promises = {
    "liveness answers at once, whatever happens": """
        http/test_contract_probes::test_liveness
        http/test_contract_probes::test_nothing_answers_yet
        http/test_contract_monitoring::test_memory_runs_out_and_comes_back
        process/test_liveness::test_liveness_answers_while_streams_run_and_a_model_loads
        process/test_stop::test_liveness_answers_before_any_model_is_loaded""",
    "readiness is a status for the CLI and words for the help pages": """
        http/test_contract_probes::test_readiness
        http/test_contract_probes::test_nothing_answers_yet
        unit/test_readiness::test_want_of_memory_is_no_readiness""",
    "a load survives its client": """
        http/test_admin_models::test_a_load_survives_its_client
        http/test_contract_models::test_a_load_is_followed_as_the_command_line_does
        unit/test_admin_model::test_who_hangs_up_ends_no_load""",
    "loaded[] lists only what answers": """
        http/test_contract_probes::test_nothing_answers_yet
        http/test_contract_models::test_the_models
        unit/test_admin_views::test_only_models_that_answer_are_loaded""",
    "an admin outcome has no status that clients repeat": """
        http/test_contract_models::test_no_outcome_is_taken_for_a_broken_line
        unit/test_contract::test_admin_outcomes_are_not_repeated""",
    "what does not fit is out_of_memory, a full disk is not": """
        http/test_admin_models::test_what_does_not_fit_says_the_numbers
        http/test_downloads::test_a_full_disk_is_refused_before_anything_is_fetched
        unit/test_problems::test_what_the_opta_cli_branches_on""",
    "nothing loaded is a 503 in known words that nobody repeats": """
        http/test_contract_chat::test_nothing_loaded_is_for_every_route
        http/test_errors::test_nothing_loaded_is_said_in_the_words_clients_know
        http/test_websocket::test_nothing_loaded_is_told_in_the_words_that_clients_know""",
    "a socket says something at once and is never silent": """
        http/test_websocket::test_the_request_is_accepted_at_once
        http/test_websocket::test_a_long_prefill_shows_signs_of_life
        http/test_websocket::test_a_request_that_waits_for_its_model_shows_signs_of_life""",
    "no text delta ends in a blank": """
        http/test_stream::test_no_delta_ends_in_a_blank
        http/test_websocket::test_a_socket_says_what_a_stream_of_events_says
        unit/test_blanks::test_no_delta_is_empty_or_ends_in_a_blank
        unit/test_blanks::test_indentation_after_a_line_break_survives""",
    "every success is JSON": """
        http/test_contract_probes::test_what_is_polled_is_quick_json
        unit/test_contract::test_every_success_is_json""",
    "ids have slashes, raw or encoded": """
        http/test_contract_probes::test_models
        http/test_contract_models::test_a_deletion
        http/test_admin_models::test_ids_have_slashes""",
    "bodies may be empty with a JSON content type": """
        http/test_contract_probes::test_posts_may_be_empty
        http/test_contract_probes::test_what_is_polled_is_quick_json
        http/test_admin_models::test_no_name_unloads_the_current_model""",
}

ACCESS: Promises = {
    "without keys any key is fine, and foreign headers are no fault": """
        http/test_contract_probes::test_headers_that_mean_nothing_here
        unit/test_gate::test_without_keys_everything_is_open""",
    "an admin key closes /admin, in each of its spellings": """
        http/test_keys::test_every_route_is_closed
        http/test_keys::test_every_route_opens
        http/test_keys::test_spellings
        unit/test_gate::test_spellings""",
    "an inference key closes /v1; the admin key opens it, too": """
        http/test_keys::test_every_route_is_closed
        http/test_keys::test_keys_of_one_kind
        http/test_skills::test_the_inference_key_opens_all_of_it""",
    "probes and discovery stay open": """
        http/test_keys::test_open_routes_stay_open
        http/test_discovery::test_with_keys_and_without_models""",
    "an upgrade without its key is refused with a status": """
        http/test_keys::test_upgrades_are_refused
        http/test_keys::test_upgrades_pass""",
    "browsers put keys into the query of sockets and event streams": """
        unit/test_gate::test_sockets_take_keys_from_the_query_string
        unit/test_access::test_where_the_query_string_may_hold_a_key""",
    "keys never reach the log": """
        http/test_secrets::test_no_key_is_ever_logged
        process/test_daemon_log::test_nobody_finds_prompts_or_keys_in_the_log""",
    "what a retry repeats joins what runs": """
        http/test_admin_models::test_a_second_load_joins_the_first
        http/test_contract_models::test_unloads_join
        http/test_downloads::test_a_download_is_ended_and_goes_on_later
        http/test_downloads::test_an_absent_model_is_offered_downloaded_and_loaded
        http/test_quantize::test_a_model_gets_smaller_and_answers""",
    "a replayed conversation is not computed again": """
        http/test_prefixes::test_a_whole_answer
        http/test_prefixes::test_a_stream""",
    "any of the machine's names and addresses is fine as a host": """
        http/test_hosts::test_our_names""",
}

PROBES: Promises = {
    "GET /healthz": "http/test_contract_probes::test_liveness",
    "GET /readyz": """
        http/test_contract_probes::test_readiness
        http/test_contract_probes::test_nothing_answers_yet
        http/test_contract_chat::test_nothing_loaded_is_for_every_route""",
    "GET /.well-known/opta-lmx": """
        http/test_discovery::test_the_whole_document
        http/test_discovery::test_addresses_follow_the_host""",
    "GET /v1/discovery": """
        http/test_discovery::test_the_whole_document
        http/test_discovery::test_both_paths_say_the_same
        http/test_discovery::test_running_requests_are_counted""",
    "GET /v1/models": """
        http/test_contract_probes::test_models
        http/test_contract_probes::test_nothing_answers_yet""",
    "GET /v1/models/{model}": "http/test_contract_probes::test_models",
}

CHAT: Promises = {
    "POST /v1/chat/completions": """
        http/test_contract_chat::test_a_request_of_the_command_line
        http/test_contract_chat::test_a_stream_of_the_command_line
        http/test_stream::test_the_grammar_of_a_stream""",
    "fields that clients send are taken, nulls are absent": """
        http/test_contract_chat::test_fields_that_clients_send
        unit/test_chat_request::test_null_means_absent
        unit/test_chat_request::test_identification_is_accepted""",
    "defaults of temperature, length and nucleus": """
        unit/test_chat_request::test_the_smallest_request_gets_the_defaults
        unit/test_config::test_defaults""",
    "odd histories are folded": """
        http/test_contract_chat::test_a_request_of_the_command_line
        unit/test_chat_request_messages::test_messages_reach_the_template
        unit/test_chat_request_messages::test_arguments_are_objects_if_they_can_be""",
    "an image is refused before any template": """
        http/test_contract_chat::test_an_image_is_refused_by_name
        unit/test_chat_request_messages::test_parts_no_text_model_reads_are_refused""",
    "max_tokens is clamped": """
        http/test_contract_chat::test_a_request_of_the_command_line
        http/test_stream::test_a_limit_beyond_the_context_is_no_error""",
    "num_ctx trims the history": """
        http/test_contract_chat::test_a_limited_context_drops_the_oldest
        unit/test_trimming::test_whole_exchanges_go""",
    "names are resolved, answers have the canonical id": """
        http/test_contract_chat::test_names
        http/test_contract_chat::test_names_of_whatever_there_is
        http/test_extras::test_names_that_the_settings_give
        http/test_extras::test_presets_answer
        unit/test_names::test_spellings""",
    "calls are read from what the model writes": """
        http/test_contract_chat::test_a_call_in_a_stream
        http/test_tools::test_no_markup_leaks_into_a_stream
        http/test_tools::test_arguments_survive_exactly""",
    "thinking stands inline for those who want it": """
        http/test_reasoning::test_inline_reasoning
        http/test_reasoning::test_the_prompt_opens_the_reasoning""",
    "usage and finish reasons are true": """
        http/test_stream::test_usage_comes_last_and_agrees
        http/test_stream::test_the_token_limit_is_said""",
    "the head comes before the prefill ends, comments fill it": """
        http/test_slow_clients::test_the_head_comes_at_once_and_comments_fill_the_prefill""",
    "a failure after the head is one error frame": """
        http/test_stream::test_a_failure_after_the_head_is_an_event
        process/test_crash::test_killing_the_worker_ends_each_stream_with_an_error_within_a_second""",
    "hanging up stops the generation": """
        process/test_cancel::test_hanging_up_frees_the_slot
        http/test_websocket::test_leaving_the_socket_cancels""",
    "WS /v1/chat/stream": """
        http/test_contract_chat::test_a_socket_of_the_command_line
        http/test_contract_chat::test_a_call_on_a_socket
        http/test_contract_chat::test_a_mistake_on_a_socket
        http/test_websocket::test_many_requests_share_a_socket""",
    "a request on a socket is cancelled by its name": """
        http/test_websocket::test_one_of_many_is_cancelled
        http/test_websocket::test_the_request_is_accepted_at_once""",
    "a plain message gets plain answers": """
        http/test_contract_chat::test_a_plain_socket
        http/test_websocket::test_a_client_that_speaks_plainly_is_answered_plainly""",
    "whole conversations fit into one message": """
        http/test_websocket::test_large_messages_are_taken""",
}

MODELS: Promises = {
    "GET /admin/status": "http/test_contract_models::test_the_status",
    "GET /admin/models": "http/test_contract_models::test_the_models",
    "GET /admin/models/available": """
        http/test_contract_models::test_what_is_available
        http/test_admin_files::test_models_on_disk_are_listed""",
    "POST /admin/models/load": """
        http/test_contract_models::test_a_load_as_the_command_line_sends_it
        http/test_contract_models::test_every_way_to_ask_for_a_load
        http/test_downloads::test_an_absent_model_is_offered_downloaded_and_loaded
        http/test_downloads::test_who_says_model_waits_for_it
        http/test_admin_models::test_what_cannot_be_loaded_says_why""",
    "POST /admin/models/load/confirm": """
        http/test_downloads::test_an_absent_model_is_offered_downloaded_and_loaded
        http/test_downloads::test_an_unknown_token_is_not_found""",
    "POST /admin/models/unload": """
        http/test_contract_models::test_unloads_join
        http/test_admin_models::test_a_model_comes_and_goes
        http/test_admin_models::test_no_name_unloads_the_current_model""",
    "GET /admin/memory": "http/test_contract_models::test_memory",
    "POST /admin/models/download": """
        http/test_downloads::test_a_download_alone_loads_nothing
        http/test_downloads::test_what_cannot_be_downloaded_says_why
        http/test_downloads::test_downloads_can_be_switched_off""",
    "GET /admin/models/download/{job_id}/progress": """
        http/test_downloads::test_an_absent_model_is_offered_downloaded_and_loaded
        http/test_downloads::test_unknown_downloads_are_not_found
        http/test_downloads::test_a_download_is_ended_and_goes_on_later""",
    "GET /admin/models/downloads": """
        http/test_downloads::test_a_download_is_ended_and_goes_on_later""",
    "DELETE /admin/models/{model}": """
        http/test_contract_models::test_a_deletion
        http/test_admin_files::test_a_model_is_deleted""",
}

# By what the client did or met.
ERRORS: Promises = {
    "one envelope serves every client": """
        http/test_contract_probes::test_mistakes_have_one_envelope
        unit/test_problems::test_the_envelope_serves_every_client""",
    "a malformed body is a 400 that names the field": """
        http/test_errors::test_what_is_wrong_is_named""",
    "a missing key is 401 for inference, 403 for administration": """
        http/test_keys::test_every_route_is_closed
        unit/test_problems::test_a_missing_inference_key_is_challenged""",
    "what is unknown is a 404 not_found": """
        http/test_contract_probes::test_mistakes_have_one_envelope
        http/test_errors::test_routes_that_are_not_there""",
    "what is in use is a 409 conflict": "http/test_admin_files::test_a_loaded_model_is_not_deleted",
    "a model that keeps dying is a 409 model_unstable": """
        http/test_admin_models::test_what_cannot_be_loaded_says_why
        process/test_crash::test_a_model_that_keeps_dying_is_quarantined""",
    "what no engine knows is a 422 model_unsupported": """
        http/test_admin_models::test_what_cannot_be_loaded_says_why""",
    "what does not fit is a 507 with the arithmetic": """
        http/test_admin_models::test_what_does_not_fit_says_the_numbers""",
    "a full disk is a 507 storage-full": """
        http/test_downloads::test_a_full_disk_is_refused_before_anything_is_fetched""",
    "a model that left for memory is a 503 oom-unloaded": """
        http/test_contract_monitoring::test_memory_runs_out_and_comes_back
        unit/test_relief::test_nothing_is_loaded_while_memory_is_short
        process/test_crash::test_running_out_of_device_memory_is_told_as_such""",
    "a full queue is a 429 with the time to come back": """
        http/test_errors::test_a_full_queue_says_when_to_come_back""",
    "an unknown token is a 404, and so is an expired one": """
        http/test_downloads::test_an_unknown_token_is_not_found
        unit/test_job_board::test_a_token_is_good_for_ten_minutes""",
    "downloads that are off are a 403": "http/test_downloads::test_downloads_can_be_switched_off",
}

P0: Mapping[str, Promises] = {
    "rules": RULES,
    "access": ACCESS,
    "probes": PROBES,
    "chat": CHAT,
    "models": MODELS,
    "errors": ERRORS,
}
