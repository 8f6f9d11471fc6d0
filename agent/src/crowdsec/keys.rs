//! Every key that CrowdSec's `config.yaml` knows, and what becomes of it here.

use model::yaml::{Content, Fault, Text, Yaml, did_you_mean};

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It counts here as well.
    Used,
    /// It does not, and this is why.
    Unused(&'static str),
}

use Fate::{Unused, Used};

const LOGS: Fate = Unused("cordon logs to standard error, as much as `--log-level` says");
const NOWHERE: Fate = Unused("it is ignored there as well");
const NOTIFIES: Fate = Unused("cordon sends no notifications");
const THREADS: Fate = Unused("cordon works on as many threads as there are processors");
const NAMES: Fate = Unused("cordon's own cache of names has fixed bounds");
const CSCLI: Fate = Unused("it concerns another program");
const DATABASE: Fate = Unused("cordon keeps a database of its own in its state folder");
const OWN_API: Fate = Unused("the API of cordon is configured in `cordon.yaml`");
const REPUTATION: Fate = Unused(
    "nobody is asked for reputations unless `requests.reputation` of cordon's configuration names whom, and a file with the key",
);
const CENTRAL: Fate = Unused("cordon does not talk to the central service");
const METRICS: Fate = Unused("metrics are at `/metrics` of the API");

/// Sections and the keys in them. A key that holds a map of its own is named whole, or with the keys of that map.
const KEYS: &[(&str, Fate)] = &[
    ("common.log_media", LOGS),
    ("common.log_dir", LOGS),
    ("common.log_level", LOGS),
    ("common.log_format", LOGS),
    ("common.log_max_size", LOGS),
    ("common.log_max_files", LOGS),
    ("common.log_max_age", LOGS),
    ("common.compress_logs", LOGS),
    ("common.force_color_logs", LOGS),
    ("common.daemonize", NOWHERE),
    ("common.pid_dir", NOWHERE),
    ("common.working_dir", NOWHERE),
    ("config_paths.config_dir", Used),
    ("config_paths.data_dir", Used),
    ("config_paths.simulation_path", Used),
    ("config_paths.hub_dir", Used),
    ("config_paths.index_path", Used),
    ("config_paths.pattern_dir", Used),
    ("config_paths.notification_dir", Used),
    ("config_paths.plugin_dir", NOTIFIES),
    ("crowdsec_service.enable", Used),
    ("crowdsec_service.acquisition_path", Used),
    ("crowdsec_service.acquisition_dir", Used),
    ("crowdsec_service.parser_routines", THREADS),
    ("crowdsec_service.buckets_routines", THREADS),
    ("crowdsec_service.output_routines", THREADS),
    ("crowdsec_service.console_context_path", Used),
    ("crowdsec_service.console_context_value_length", Used),
    ("crowdsec_service.state_input_file", NOWHERE),
    ("crowdsec_service.state_output_dir", NOWHERE),
    ("crowdsec_service.dns_cache.ttl", NAMES),
    ("crowdsec_service.dns_cache.negative_ttl", NAMES),
    ("crowdsec_service.dns_cache.size", NAMES),
    ("cscli.output", CSCLI),
    ("cscli.color", CSCLI),
    ("cscli.hub_branch", CSCLI),
    ("cscli.hub_with_content", CSCLI),
    ("cscli.prometheus_uri", CSCLI),
    ("cscli.__hub_url_template__", CSCLI),
    ("db_config.type", DATABASE),
    ("db_config.db_path", DATABASE),
    ("db_config.user", DATABASE),
    ("db_config.password", DATABASE),
    ("db_config.db_name", DATABASE),
    ("db_config.host", DATABASE),
    ("db_config.port", DATABASE),
    ("db_config.sslmode", DATABASE),
    ("db_config.ssl_ca_cert", DATABASE),
    ("db_config.ssl_client_cert", DATABASE),
    ("db_config.ssl_client_key", DATABASE),
    ("db_config.max_open_conns", DATABASE),
    ("db_config.use_wal", DATABASE),
    ("db_config.decision_bulk_size", DATABASE),
    ("db_config.log_level", DATABASE),
    ("db_config.flush", DATABASE),
    ("api.client.credentials_path", Used),
    ("api.client.insecure_skip_verify", Unused("cordon sends alerts to nobody whose certificate is not right")),
    ("api.client.unregister_on_exit", Unused("a machine stays registered")),
    ("api.cti.key", REPUTATION),
    ("api.cti.enabled", REPUTATION),
    ("api.cti.cache_timeout", REPUTATION),
    ("api.cti.cache_size", REPUTATION),
    ("api.cti.log_level", LOGS),
    ("api.server.enable", Used),
    ("api.server.listen_uri", Used),
    ("api.server.listen_socket", Unused("the socket of cordon lies in its state folder")),
    ("api.server.log_level", LOGS),
    ("api.server.papi_log_level", LOGS),
    ("api.server.profiles_path", Used),
    ("api.server.console_path", CENTRAL),
    ("api.server.tls", OWN_API),
    ("api.server.trusted_ips", OWN_API),
    ("api.server.use_forwarded_for_headers", OWN_API),
    ("api.server.trusted_proxies", OWN_API),
    ("api.server.disable_remote_lapi_registration", OWN_API),
    ("api.server.auto_registration", OWN_API),
    ("api.server.online_client", CENTRAL),
    ("api.server.capi_whitelists_path", Unused("use `cordon allowlists`, which protects from every decision")),
    ("api.server.disable_usage_metrics_export", CENTRAL),
    ("prometheus.enabled", METRICS),
    ("prometheus.level", METRICS),
    ("prometheus.listen_addr", METRICS),
    ("prometheus.listen_port", METRICS),
    ("plugin_config.user", NOTIFIES),
    ("plugin_config.group", NOTIFIES),
];

/// Names every key of `config.yaml` that does not count here, with the reason: one note for each section and reason.
pub(super) fn notes(config: &Yaml) -> Vec<Fault> {
    let mut unused: Vec<(&'static str, Vec<(String, u32)>)> = Vec::new();
    let mut notes = Vec::new();
    walk(config, "", &mut |path: &str, key: &Text| match KEYS.iter().find(|(known, _)| *known == path) {
        Some((_, Used)) => true,
        Some((_, Unused(why))) => {
            match unused.iter_mut().find(|(reason, _)| reason == why) {
                Some((_, keys)) => keys.push((path.to_owned(), key.line)),
                None => unused.push((why, vec![(path.to_owned(), key.line)])),
            }
            true
        }
        None if KEYS.iter().any(|(known, _)| known.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))) => {
            false
        }
        None => {
            let note = Fault::new(key.line, format!("unknown key `{path}`, which CrowdSec refuses"));
            let near = did_you_mean(path, KEYS.iter().map(|(known, _)| *known));
            notes.push(match near {
                Some(near) => note.hint(format!("did you mean `{near}`?")),
                None => note.hint("remove it"),
            });
            true
        }
    });
    for (why, keys) in unused {
        let line = keys.first().map_or(0, |(_, line)| *line);
        let named: Vec<String> = keys.iter().map(|(path, line)| format!("`{path}` (line {line})")).collect();
        let note = Fault::new(line, format!("not used here: {}: {why}", named.join(", ")));
        notes.push(note.hint("nothing needs to be done; it may stay for CrowdSec"));
    }
    notes
}

/// Shows every key to `see`, which says whether what lies below is of no interest.
fn walk(yaml: &Yaml, above: &str, see: &mut dyn FnMut(&str, &Text) -> bool) {
    let Content::Map(entries) = &yaml.content else { return };
    for (key, value) in entries {
        let path = if above.is_empty() { key.text.clone() } else { format!("{above}.{}", key.text) };
        if !see(&path, key) {
            walk(value, &path, see);
        }
    }
}
