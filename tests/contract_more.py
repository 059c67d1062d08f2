"""What clients of LMX rely on beyond chats and models (P1), and the tests that hold it to that.

As in `tests.contract`. The last table has the questions in which clients disagree; what is built
satisfies all of them.
"""

from collections.abc import Mapping

from tests.contract import Promises

MONITORING: Promises = {
    "GET /health": "http/test_contract_probes::test_liveness",
    "GET /": "http/test_contract_probes::test_the_front_door",
    "GET /admin/health": """
        http/test_contract_monitoring::test_the_health
        http/test_live::test_health_is_always_200
        http/test_contract_monitoring::test_memory_runs_out_and_comes_back""",
    "GET /admin/device": "http/test_contract_monitoring::test_the_device",
    "GET /admin/metrics": """
        http/test_contract_monitoring::test_the_names_of_alerts
        http/test_live::test_prometheus_can_read_it""",
    "GET /admin/metrics/json": """
        http/test_contract_monitoring::test_the_numbers
        http/test_live::test_requests_are_counted_by_model_and_client""",
    "GET /admin/diagnostics": """
        http/test_contract_monitoring::test_the_diagnosis
        http/test_live::test_errors_are_told""",
    "POST /admin/config/reload": """
        http/test_contract_probes::test_posts_may_be_empty
        http/test_config_reload::test_bodies_are_ignored
        http/test_config_reload::test_what_needs_a_restart_is_told""",
    "GET /admin/events": """
        http/test_contract_monitoring::test_events
        http/test_events::test_the_stream_begins_at_once
        http/test_events::test_who_comes_back_misses_nothing
        http/test_events::test_a_subscriber_that_does_not_read_is_closed
        unit/test_event_frames::test_each_type_goes_out_as_its_readers_listen""",
    "downloads are told as events": "http/test_downloads::test_events_tell_of_downloads",
    "what a dashboard polls is quick": """
        http/test_contract_probes::test_what_is_polled_is_quick_json""",
}

MODELS: Promises = {
    "GET /admin/models/{model}/performance": """
        http/test_contract_models::test_performance
        http/test_admin_models::test_performance_is_of_loaded_models""",
    "POST /admin/models/probe": """
        http/test_contract_models::test_a_probe_and_what_is_remembered
        http/test_admin_models::test_a_probe_leaves_everything_as_it_is""",
    "GET /admin/models/compatibility": """
        http/test_contract_models::test_a_probe_and_what_is_remembered
        http/test_admin_models::test_compatibility_remembers""",
    "POST /admin/models/download/{job_id}/cancel": """
        http/test_downloads::test_a_download_is_ended_and_goes_on_later""",
}

ROUTES: Promises = {
    "POST /v1/embeddings": """
        http/test_contract_chat::test_vectors
        http/test_vectors::test_every_form_of_input_means_the_same
        http/test_vectors::test_base64_holds_the_same_numbers
        http/test_vector_clients::test_openai_asks_for_base64_and_reads_it""",
    "POST /v1/rerank": """
        http/test_contract_chat::test_ranks
        http/test_vectors::test_documents_may_stay_away""",
    "POST /v1/completions": """
        http/test_contract_chat::test_texts
        http/test_completions::test_a_streamed_completion""",
    "POST /v1/messages": """
        http/test_contract_chat::test_messages
        http/test_anthropic::test_the_events_of_a_stream""",
    "GET /v1/skills": """
        http/test_contract_skills::test_the_list
        http/test_skills::test_skills_are_listed_with_what_is_broken""",
    "GET /v1/skills/{skill}": """
        http/test_contract_skills::test_every_name_of_a_skill
        http/test_skills::test_fixed_paths_are_no_skills""",
    "POST /v1/skills/{skill}/execute": """
        http/test_contract_skills::test_the_built_in_ones_run
        http/test_contract_skills::test_refusals_are_answers
        http/test_skills::test_malformed_calls_are_refused""",
}

BROWSERS: Promises = {
    "preflights pass without a key": "http/test_cors::test_preflights",
    "public pages may reach a private address": "http/test_cors::test_private_networks",
    "the list of origins is configured": "http/test_cors::test_origins_are_configured",
    "refusals may be read": "http/test_cors::test_refusals_may_be_read",
}

MEMORY: Promises = {
    "a warning, then the model leaves, then it comes back": """
        http/test_contract_monitoring::test_memory_runs_out_and_comes_back
        unit/test_relief::test_the_biggest_goes_at_once""",
    "the log has the lines that the help pages promise": """
        http/test_contract_monitoring::test_memory_runs_out_and_comes_back
        http/test_contract_monitoring::test_what_the_log_says_of_a_request""",
    "levels are settings": "http/test_config_reload::test_memory_levels_take_effect",
    "several models stay while they fit, idle ones leave first": """
        unit/test_residency::test_the_least_recently_used_leave_first
        unit/test_residency::test_the_busy_go_as_the_last_resort
        process/test_swap::test_models_that_do_not_fit_together_come_and_go_and_every_request_is_answered""",
    "idle models are unloaded if they are to be": "unit/test_service::test_who_leaves_when_idle",
    "a crash in native code ends no daemon": """
        process/test_crash::test_an_abort_inside_a_native_call_is_a_crash_like_any_other
        process/test_storm::test_faults_cost_their_own_requests_a_typed_error_and_nothing_else""",
    "downloads are verified": """
        http/test_downloads::test_what_a_failed_download_left_can_be_deleted""",
    "what was loaded comes back after a crash": """
        unit/test_restorer::test_a_killed_daemon_comes_back
        unit/test_restorer::test_after_a_clean_stop_nothing_comes_back""",
    "state is in the home": "http/test_contract_monitoring::test_state_is_kept_in_the_home",
}

SETTINGS: Promises = {
    "a key that is inserted by hand works after a reload": """
        http/test_config_reload::test_a_created_key_works
        unit/test_config_places::test_a_key_is_inserted_above_deeper_ones""",
    "home, file, variables and command line, the later wins": """
        unit/test_config::test_home
        unit/test_config::test_later_sources_win""",
    "the help pages' file and variables are read, too": """
        unit/test_config_places::test_the_file_of_the_help_pages
        unit/test_config_places::test_variables_of_the_help_pages""",
    "names of earlier versions are known": "unit/test_config_places::test_names_of_other_versions",
    "a reload reads the same file": "unit/test_live::test_the_same_file_is_read",
}

SERVICE: Promises = {
    "importing and help are quick": """
        process/test_alias::test_importing_is_quick_and_starts_nothing
        process/test_alias::test_help_is_quick""",
    "python -m opta_lmx.main serves and ends with 0": """
        process/test_alias::test_it_serves_as_the_cli_starts_it_and_keeps_its_name""",
    "a stop lets answers finish": "process/test_stop::test_a_signal_lets_running_answers_finish",
    "the log file is the one that the CLI names": """
        process/test_daemon_log::test_a_log_file_takes_the_lines""",
    "one daemon per home": """
        process/test_single_instance::test_a_second_daemon_names_the_first
        process/test_single_instance::test_the_lock_of_a_killed_daemon_is_taken_over""",
    "the property list has every key": """
        unit/test_service_files::test_the_property_list_has_every_key
        unit/test_service_files::test_the_file_in_the_repository_is_what_is_rendered""",
    "an agent is installed, started and stopped": """
        process/test_service_commands::test_installing_an_agent_says_what_it_does
        process/test_service_commands::test_the_life_of_an_agent""",
    "mDNS answers unicast with everything in one packet": """
        process/test_mdns::test_who_asks_from_a_port_of_its_own_is_answered_at_once
        unit/test_mdns_answer::test_the_answer_has_everything_in_one_packet""",
    "mDNS never stops the start": """
        process/test_mdns::test_a_network_that_does_not_work_ends_nothing""",
}

CONTRADICTIONS: Promises = {
    "the body of /readyz": "http/test_contract_probes::test_readiness",
    "loaded[] or models[]": "http/test_contract_models::test_the_models",
    "model_id, model or backend_hint": """
        http/test_contract_models::test_every_way_to_ask_for_a_load
        unit/test_admin_requests::test_either_key_names_the_model""",
    "what a load answers": "http/test_contract_models::test_a_load_as_the_command_line_sends_it",
    "progress is polled": """
        http/test_downloads::test_an_absent_model_is_offered_downloaded_and_loaded""",
    "images": "http/test_contract_chat::test_an_image_is_refused_by_name",
    "an absent model is offered, or waited for": """
        http/test_downloads::test_an_absent_model_is_offered_downloaded_and_loaded
        http/test_downloads::test_who_says_model_waits_for_it""",
    "unload with and without a name": """
        http/test_contract_models::test_unloads_join
        http/test_admin_models::test_no_name_unloads_the_current_model""",
    "many residents": "http/test_contract_chat::test_names",
    "nothing loaded": "http/test_contract_chat::test_nothing_loaded_is_for_every_route",
    "after memory ran out": "http/test_contract_monitoring::test_memory_runs_out_and_comes_back",
    "typed or plain messages": "http/test_contract_chat::test_a_plain_socket",
    "documents of a ranking": "http/test_contract_chat::test_ranks",
    "named or unnamed events": "http/test_contract_monitoring::test_events",
    "memory under two names": "http/test_contract_models::test_memory",
    "numbers flat and nested": "http/test_contract_monitoring::test_the_numbers",
    "roles, presets and sessions": """
        http/test_extras::test_the_stack_tells_what_names_mean
        http/test_extras::test_presets_are_listed_shown_and_read_again
        http/test_extras::test_sessions_are_listed_searched_shown_and_deleted""",
    "schemas of tools in two spellings": "http/test_skills::test_tools_come_in_both_spellings",
    "where the admin key stands": "http/test_keys::test_spellings",
    "YAML or TOML, LMX_ or OPTA_LMX_": """
        unit/test_config_places::test_the_file_of_the_help_pages
        unit/test_config_places::test_ours_wins_and_says_so""",
    "85 and 90 percent": "unit/test_config::test_defaults",
    "restarts on failure only, 0 after SIGTERM": """
        unit/test_service_files::test_the_property_list_has_every_key
        process/test_alias::test_it_serves_as_the_cli_starts_it_and_keeps_its_name""",
    "both codes": "unit/test_problems::test_what_the_opta_cli_branches_on",
}

P1: Mapping[str, Promises] = {
    "monitoring": MONITORING,
    "models": MODELS,
    "routes": ROUTES,
    "browsers": BROWSERS,
    "memory": MEMORY,
    "settings": SETTINGS,
    "service": SERVICE,
    "contradictions": CONTRADICTIONS,
}
