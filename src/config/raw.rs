//! What the TOML says, before anything is checked but its shape. Every key of the file is a field here and nowhere else;
//! `config/ringpost.toml` documents each (a test compares the two). Unknown keys are refused.

use super::value::{Size, Span};
use serde::Deserialize;

#[cfg(test)]
pub(super) use keys::all as all_keys;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "config/ringpost.toml documents the keys")]
pub struct Raw {
    pub hostname: Option<String>,
    pub shards: Option<i64>,
    pub drain_timeout: Option<Span>,
    pub spool: RawSpool,
    pub listener: Vec<RawListener>,
    pub clients: RawClients,
    pub tls: RawTls,
    pub accounts: RawAccounts,
    pub local: Vec<RawLocal>,
    pub shaping: RawShaping,
    pub relay: RawRelay,
    pub smtp: RawSmtp,
    pub dns: RawDns,
    pub delivery: RawDelivery,
    pub source: Vec<RawSource>,
    pub pool: Vec<RawPool>,
    pub pools: RawPools,
    pub tls_reports: RawTlsReports,
    pub admin: RawAdmin,
    pub log: RawLog,
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[cfg_attr(test, derive(serde::Serialize))]
        #[serde(deny_unknown_fields, default)]
        #[allow(missing_docs, reason = "config/ringpost.toml documents the keys")]
        pub struct $name { $(pub $field: $type,)* }
    };
}

section! {
    /// `[spool]`
    RawSpool {
        path: Option<String>,
    }
}

section! {
    /// `[[listener]]`
    RawListener {
        address: Option<String>,
        kind: Option<String>,
        tls: Option<String>,
        auth: Option<String>,
        auth_without_tls: Option<bool>,
        verify_sender_domain: Option<bool>,
        verify_recipient_domain: Option<bool>,
        proxy_networks: Option<Vec<String>>,
        xclient_networks: Option<Vec<String>>,
        xforward_networks: Option<Vec<String>>,
        greeting_delay: Option<Span>,
        strict_pipelining: Option<bool>,
    }
}

section! {
    /// `[tls]`
    RawTls {
        certificates: Option<Vec<RawCertificate>>,
        client_ca: Option<String>,
        trust: Option<String>,
    }
}

section! {
    /// One of `[tls] certificates`
    RawCertificate {
        certificate: Option<String>,
        key: Option<String>,
    }
}

section! {
    /// `[clients]`
    RawClients {
        ipv4_prefix: Option<i64>,
        ipv6_prefix: Option<i64>,
        connections: Option<i64>,
        connections_per_minute: Option<i64>,
        messages_per_minute: Option<i64>,
        all_connections_per_minute: Option<i64>,
        all_messages_per_minute: Option<i64>,
    }
}

section! {
    /// `[accounts]`
    RawAccounts {
        file: Option<String>,
    }
}

section! {
    /// `[[local]]`
    RawLocal {
        domains: Option<Vec<String>>,
        deliver: Option<String>,
        mailboxes: Option<String>,
        aliases: Option<String>,
        subaddress: Option<String>,
    }
}

section! {
    /// `[relay]`
    RawRelay {
        from_networks: Option<Vec<String>>,
    }
}

section! {
    /// `[shaping]`
    RawShaping {
        files: Option<Vec<String>>,
        campaign_header: Option<String>,
    }
}

section! {
    /// `[smtp]`
    RawSmtp {
        max_message_bytes: Option<Size>,
        max_recipients: Option<i64>,
        max_sessions_per_shard: Option<i64>,
        command_timeout: Option<Span>,
        data_timeout: Option<Span>,
        error_delay: Option<Span>,
        submission_from: Option<String>,
        vrfy: Option<String>,
        expn: Option<String>,
        legacy_send: Option<String>,
    }
}

section! {
    /// `[dns]`
    RawDns {
        servers: Option<Vec<String>>,
        validating: Option<bool>,
        timeout: Option<Span>,
        attempts: Option<i64>,
        min_ttl: Option<Span>,
        max_ttl: Option<Span>,
        serve_stale: Option<Span>,
        random_case: Option<bool>,
    }
}

section! {
    /// `[delivery]`
    RawDelivery {
        port: Option<i64>,
        smart_host: Option<String>,
        smart_host_tls: Option<String>,
        smart_host_implicit_tls: Option<bool>,
        smart_host_auth: Option<String>,
        smart_host_auth_without_tls: Option<bool>,
        routes: Option<String>,
        fallback_relay: Option<String>,
        fallback_after: Option<Span>,
        ehlo_name: Option<String>,
        source_addresses: Option<Vec<String>>,
        ipv6: Option<bool>,
        tls: Option<String>,
        mta_sts: Option<bool>,
        connections_per_destination: Option<i64>,
        bounces_per_hour: Option<i64>,
        bounces_percent: Option<i64>,
        lane_rate: Option<i64>,
        messages_in_flight: Option<i64>,
        messages_per_connection: Option<i64>,
        idle_timeout: Option<Span>,
        connect_timeout: Option<Span>,
        retry: RawRetry,
    }
}

section! {
    /// `[delivery] retry = { … }`
    RawRetry {
        first: Option<Span>,
        factor: Option<f64>,
        max: Option<Span>,
        give_up: Option<Span>,
        jitter: Option<f64>,
    }
}

section! {
    /// `[[source]]`
    RawSource {
        address: Option<String>,
        ehlo_name: Option<String>,
        pools: Option<Vec<String>>,
        weight: Option<i64>,
        proxy: Option<String>,
        proxy_auth: Option<String>,
        proxy_bind: Option<bool>,
        warmup: RawWarmup,
    }
}

section! {
    /// `[[source]] warmup = { … }`
    RawWarmup {
        started: Option<String>,
        schedule: Option<Vec<i64>>,
    }
}

section! {
    /// `[[pool]]`
    RawPool {
        name: Option<String>,
        tenants: Option<Vec<String>>,
        campaigns: Option<Vec<String>>,
        sender_domains: Option<Vec<String>>,
    }
}

section! {
    /// `[pools]`
    RawPools {
        default: Option<String>,
        header: Option<String>,
    }
}

section! {
    /// `[tls_reports]`
    RawTlsReports {
        organization: Option<String>,
        contact: Option<String>,
        from: Option<String>,
        delay: Option<Span>,
    }
}

section! {
    /// `[admin]`
    RawAdmin {
        address: Option<String>,
    }
}

section! {
    /// `[log]`
    RawLog {
        level: Option<String>,
        events: Option<String>,
        rotate_bytes: Option<Size>,
        keep: Option<i64>,
    }
}

#[cfg(test)]
mod keys {
    use super::*;

    impl serde::Serialize for Span {
        fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.collect_str(self)
        }
    }

    impl serde::Serialize for Size {
        fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.serialize_u64(self.0)
        }
    }

    /// Every key as a dotted path, read off the types above.
    pub(in crate::config) fn all() -> Vec<String> {
        fn walk(value: &serde_json::Value, path: &str, into: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(map) => {
                    for (key, value) in map {
                        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                        walk(value, &path, into);
                    }
                }
                serde_json::Value::Array(list) => list.iter().for_each(|item| walk(item, path, into)),
                _ => into.push(path.to_owned()),
            }
        }
        let raw = Raw {
            listener: vec![RawListener::default()],
            local: vec![RawLocal::default()],
            source: vec![RawSource::default()],
            pool: vec![RawPool::default()],
            ..Raw::default()
        };
        let value = serde_json::to_value(raw).expect("plain data");
        let mut into = Vec::new();
        walk(&value, "", &mut into);
        into
    }
}
