//! Why a broker does not take a client, in terms of the settings that decide it.
//!
//! librdkafka tells it in log lines only: what a call returns is that it timed out. The lines are those of the client that is linked in,
//! and `tests/broker/security.rs` meets each of them on a real broker.

use crate::error::Error;

/// A setting that is at fault, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    setting: &'static str,
    hint: &'static str,
}

const PROTOCOL: Refusal = Refusal {
    setting: "security.protocol",
    hint: "set \"security.protocol\" under [kafka.properties] to what the broker's listener speaks: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL",
};
const PASSWORD: Refusal = Refusal {
    setting: "sasl.username, sasl.password",
    hint: "check \"sasl.username\" and \"sasl.password\" under [kafka.properties], and that the broker knows the user for this \"sasl.mechanism\"",
};
const MECHANISM: Refusal = Refusal {
    setting: "sasl.mechanism",
    hint: "set \"sasl.mechanism\" under [kafka.properties] to one that the broker's listener offers, such as SCRAM-SHA-512",
};
const AUTHORITY: Refusal = Refusal {
    setting: "ssl.ca.location",
    hint: "set \"ssl.ca.location\" under [kafka.properties] to a PEM file with the authority that signed the broker's certificate, and name the \
           broker as its certificate does",
};
const CERTIFICATE: Refusal = Refusal {
    setting: "ssl.certificate.location, ssl.key.location",
    hint: "the broker wants a client certificate that it trusts: set \"ssl.certificate.location\" and \"ssl.key.location\" under [kafka.properties]",
};

/// What the lines say, the more exact ones first.
const LINES: &[(&str, Refusal)] = &[
    ("certificate verify failed", AUTHORITY),
    ("broker certificate could not be verified", AUTHORITY),
    ("wrong version number", PROTOCOL),
    ("connecting to a PLAINTEXT broker listener", PROTOCOL),
    ("incorrect security.protocol", PROTOCOL),
    ("alert certificate required", CERTIFICATE),
    ("alert bad certificate", CERTIFICATE),
    ("alert unknown ca", CERTIFICATE),
    ("alert certificate unknown", CERTIFICATE),
    ("client SSL authentication might be required", CERTIFICATE),
    ("Unsupported SASL mechanism", MECHANISM),
    ("not supported by broker", MECHANISM),
    ("SASL authentication error", PASSWORD),
    ("SASL SCRAM", PASSWORD),
];

/// `None`: the line is no refusal, such as that of a broker that is down.
pub(super) fn refusal(line: &str) -> Option<Refusal> {
    LINES.iter().find(|(text, _)| line.contains(text)).map(|(_, refusal)| *refusal)
}

/// A listener that expects another protocol closes the connection without a word; so does a broker that is about to end.
pub(super) fn closed(brokers: &str, line: &str) -> Error {
    Error::away(format!("kafka at {brokers}: the broker closes the connection: {}", said(line)))
        .hint(format!("if it runs, it expects another protocol: {}", PROTOCOL.hint))
}

impl Refusal {
    /// `line` as librdkafka logged it.
    pub fn error(self, brokers: &str, line: &str) -> Error {
        Error::config(format!("kafka at {brokers}: refused because of {}: {}", self.setting, said(line))).hint(self.hint)
    }
}

/// Without the name of the thread in front.
fn said(line: &str) -> &str {
    line.split_once("]: ").map_or(line, |(_, said)| said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_setting() {
        let line = "[thrd:sasl_ssl://h:1/bootstrap]: sasl_ssl://h:1/bootstrap: SASL authentication error: Authentication failed";
        let error = refusal(line).unwrap().error("h:1", line);
        assert!(
            error.message.starts_with("kafka at h:1: refused because of sasl.username, sasl.password: sasl_ssl://h:1"),
            "{error}"
        );
        assert_eq!(refusal("[thrd:a]: a:1: Connect to ipv4#1.2.3.4:1 failed: Connection refused"), None);
        assert_eq!(refusal("SSL handshake failed: ... certificate verify failed: broker certificate ..."), Some(AUTHORITY));
    }
}
