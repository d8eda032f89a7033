//! How to reach a cluster, and which of librdkafka's properties exactly-once owns.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::types::RDKafkaErrorCode;

use crate::error::{Error, Result, nearest};

use super::native::Conf;

/// A cluster and every librdkafka property that the user sets: security, buffers, timeouts.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaSettings {
    /// `host:port,...`.
    pub brokers: String,
    /// By librdkafka's names; those that exactly-once owns are refused.
    pub properties: BTreeMap<String, String>,
}

impl fmt::Debug for KafkaSettings {
    /// Values may be secrets: names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("KafkaSettings").field("brokers", &self.brokers).field("properties", &names).finish()
    }
}

/// Whether the value must not be shown.
fn is_secret(name: &str) -> bool {
    ["password", "secret", "key.pem", "jaas", "oauthbearer.config"].iter().any(|part| name.contains(part))
}

/// Properties that must not be set, with the reason.
const OWNED: &[(&str, &str)] = &[
    ("bootstrap.servers", "the brokers have a key of their own"),
    ("metadata.broker.list", "the brokers have a key of their own"),
    ("group.id", "the group follows from the pipeline's name and generation"),
    ("group.instance.id", "it follows from the state directory"),
    ("enable.auto.commit", "offsets are committed with the outputs, in one transaction"),
    ("auto.commit.enable", "offsets are committed with the outputs, in one transaction"),
    ("enable.auto.offset.store", "offsets are committed with the outputs, in one transaction"),
    ("isolation.level", "sources are always read committed, restores choose for themselves"),
    ("auto.offset.reset", "a position is never guessed: it is `none`, and `--from` says where to start"),
    ("enable.partition.eof", "a bounded read ends by position"),
    ("transactional.id", "it follows from the pipeline's name and the state directory"),
    ("transaction.timeout.ms", "it has a key of its own"),
    ("enable.idempotence", "duplicates of retries are always prevented"),
    ("delivery.report.only.error", "commits count on it"),
    ("dr_cb", "callbacks are the program's"),
    ("dr_msg_cb", "callbacks are the program's"),
    ("allow.auto.create.topics", "topics are created on purpose only"),
    ("enabled_events", "callbacks are the program's"),
    ("plugin.library.paths", "no foreign code is loaded"),
];

/// Properties that may only have some values.
const LIMITED: &[(&str, &[&str], &str)] = &[
    ("partition.assignment.strategy", &["cooperative-sticky"], "tasks that stay must keep running through a rebalance"),
    ("acks", &["all", "-1"], "a commit must not be lost with one broker"),
    ("request.required.acks", &["all", "-1"], "a commit must not be lost with one broker"),
];

impl KafkaSettings {
    /// Properties that keep a consumer's queues and a producer's within so many bytes each: beside its bytes every message costs librdkafka
    /// some hundred of its own, so their number is limited too. They are never above what is set without them.
    pub fn within(consumer: usize, producer: usize) -> BTreeMap<String, String> {
        let ample = consumer >= 64 << 20;
        // An answer is queued whole.
        let fetched = if ample { 32 << 20 } else { (consumer / 8).max(1 << 20) };
        let properties = [
            ("queued.max.messages.kbytes", (consumer >> 10).clamp(1024, 65_536)),
            ("queued.min.messages", if ample { 100_000 } else { (consumer >> 10).max(1_000) }),
            ("fetch.max.bytes", fetched),
            ("max.partition.fetch.bytes", fetched.min(4 << 20)),
            ("queue.buffering.max.kbytes", (producer >> 10).clamp(1024, 262_144)),
            ("queue.buffering.max.messages", (producer >> 8).clamp(10_000, 500_000)),
        ];
        properties.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect()
    }

    /// `queued.max.messages.kbytes` and `fetch.max.bytes` of a client that reads beside the sources (restores, warm copies): a quarter of what a
    /// consumer has, since there may be several.
    pub(super) fn of_reader(&self) -> [String; 2] {
        let given = |name: &str, default: usize| {
            let value = self.properties.get(name).and_then(|value| value.parse::<usize>().ok());
            value.unwrap_or(default)
        };
        let queue = (given("queued.max.messages.kbytes", 65_536) / 4).max(1024);
        let answer = given("fetch.max.bytes", 32 << 20).min(queue << 9).max(1 << 20);
        [queue.to_string(), answer.to_string()]
    }

    /// Refuses what exactly-once owns, unknown names and values that librdkafka does not take.
    pub fn check(&self) -> Result<()> {
        if self.brokers.trim().is_empty() {
            return Err(Error::config("kafka: no brokers").hint("give host:port, several with commas between them"));
        }
        let conf = Conf::new();
        for (name, value) in &self.properties {
            if let Some((_, why)) = OWNED.iter().find(|(owned, _)| owned == name) {
                return Err(Error::config(format!("kafka property \"{name}\" can't be set: {why}")));
            }
            if let Some((_, allowed, why)) = LIMITED.iter().find(|(limited, ..)| limited == name)
                && !allowed.contains(&value.as_str())
            {
                let message = format!("kafka property \"{name}\" can't be \"{value}\": {why}");
                return Err(Error::config(message).hint(format!("leave it out, or take \"{}\"", allowed[0])));
            }
            conf.set(name, value).map_err(|failure| match failure.code {
                RDKafkaErrorCode::NoEnt => unknown(&conf, name),
                _ if is_secret(name) => {
                    Error::config(format!("kafka property \"{name}\" has a value that librdkafka does not take"))
                }
                _ => Error::config(format!("kafka property \"{name}\" = \"{value}\": {}", failure.text)),
            })?;
        }
        Ok(())
    }

    /// The properties of one client: `defaults` give way to the user's, `fixed` don't.
    pub(super) fn client(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> BTreeMap<String, String> {
        let given = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut all: BTreeMap<String, String> = given(defaults);
        all.insert("client.id".to_owned(), "tidemill".to_owned());
        // A broker that comes back is found within two seconds, not ten.
        all.insert("reconnect.backoff.max.ms".to_owned(), "2000".to_owned());
        all.extend(self.properties.clone());
        let fixed: BTreeMap<String, String> = given(fixed);
        all.extend(fixed);
        all.insert("bootstrap.servers".to_owned(), self.brokers.clone());
        all
    }

    /// The group protocol of KIP-848, where session and assignor are the broker's.
    pub(super) fn group_protocol_consumer(&self) -> bool {
        self.properties.get("group.protocol").is_some_and(|protocol| protocol == "consumer")
    }
}

fn unknown(conf: &Conf, name: &str) -> Error {
    let names = conf.names();
    let error = Error::config(format!("kafka property \"{name}\" is not known to librdkafka"));
    match nearest(name, names.iter().map(String::as_str)) {
        Some(meant) => error.hint(format!("did you mean \"{meant}\"?")),
        None => error.hint("the names are those of librdkafka's CONFIGURATION.md"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn check(name: &str, value: &str) -> Result<()> {
        let properties = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        KafkaSettings { brokers: "localhost:9092".to_owned(), properties }.check()
    }

    #[test]
    fn property_of_the_user_is_taken() {
        check("security.protocol", "SASL_SSL").unwrap();
        check("sasl.mechanism", "SCRAM-SHA-512").unwrap();
        check("sasl.mechanism", "PLAIN").unwrap();
        check("partition.assignment.strategy", "cooperative-sticky").unwrap();
        check("group.protocol", "consumer").unwrap();
    }

    #[test]
    fn every_owned_property_is_refused_with_its_reason() {
        for (name, why) in OWNED {
            let error = check(name, "true").unwrap_err();
            assert_eq!(error.kind, Kind::Config);
            assert!(error.message.contains(name) && error.message.contains(why), "{error}");
        }
        assert!(check("partition.assignment.strategy", "range").unwrap_err().message.contains("range"));
        assert!(check("acks", "1").is_err());
    }

    #[test]
    fn properties_of_a_budget_are_ones_that_the_client_takes() {
        for bytes in [0, 16 << 20, 1 << 40] {
            let properties = KafkaSettings::within(bytes, bytes);
            KafkaSettings { brokers: "localhost:9092".to_owned(), properties }.check().unwrap();
        }
    }

    #[test]
    fn a_reader_has_a_quarter_of_what_a_consumer_has() {
        let of = |properties| KafkaSettings { brokers: "localhost:9092".to_owned(), properties }.of_reader();
        assert_eq!(of(BTreeMap::new()), ["16384", "8388608"]);
        assert_eq!(of(KafkaSettings::within(1 << 20, 1 << 20)), ["1024", "1048576"]);
        assert_eq!(of(KafkaSettings::within(64 << 20, 1 << 20)), ["16384", "8388608"]);
    }

    #[test]
    fn unknown_property_names_the_nearest() {
        let error = check("fetch.wait.max.msec", "5").unwrap_err();
        assert_eq!(error.kind, Kind::Config);
        assert_eq!(error.hint.as_deref(), Some("did you mean \"fetch.wait.max.ms\"?"));
    }

    #[test]
    fn bad_value_is_refused_by_name() {
        assert!(check("fetch.wait.max.ms", "soon").unwrap_err().message.contains("fetch.wait.max.ms"));
    }
}
