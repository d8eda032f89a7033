//! TLS and users: `[kafka.properties]` reaches every client, and what the broker refuses is said within five seconds, with the setting and
//! the remedy, and never with the secret.

use std::time::Duration;

use crate::program::Site;
use crate::shop::{Shop, Source, actual, expected};
use crate::support::{SecureBroker, secure_kafka};
use crate::world::{World, wait_until};

/// Five seconds, as it is shipped; a debug build beside other tests gets more.
const LIMIT: Duration = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 5 });

/// A config file whose client uses these properties.
fn site(world: &World, name: &str, brokers: &str, properties: &[(&str, &str)]) -> Site {
    let properties: String = properties.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"\n")).collect();
    world.site(name, &format!("[kafka]\nbrokers = \"{brokers}\"\n[kafka.properties]\n{properties}"))
}

fn sasl<'a>(mechanism: &'a str, password: &'a str, authority: &'a str) -> [(&'a str, &'a str); 5] {
    [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", mechanism),
        ("sasl.username", "tidemill"),
        ("sasl.password", password),
        ("ssl.ca.location", authority),
    ]
}

/// The whole pipeline through this listener, with state, a restart and a shadow; then what other commands need.
fn works(secure: &SecureBroker, what: &str, brokers: &str, properties: &[(&str, &str)]) {
    let Some(world) = World::on(secure.broker.clone(), what) else { return };
    let shop = Shop::open(&world);
    let site = site(&world, "live", brokers, properties);
    let mut source = Source::new(7, shop.writer.clone());
    for _ in 0..2 {
        world.write(&shop.orders, &source.batch(500));
        site.done(&["run", shop.sql(), "--until-caught-up"]);
        // A transaction is decided a moment before its markers let a reader see it.
        let expected = expected(&world, &shop);
        wait_until("all rows of the input come out", Duration::from_secs(10), || actual(&world, None, 1) == expected);
    }
    site.done(&["check", shop.sql(), "--locked"]);
    site.done(&["backfill", shop.sql(), "--from", "earliest", "--to", "latest", "--job", "again"]);
    let lag = site.done(&["lag", &world.name]);
    assert!(lag.stdout.contains(shop.orders.as_str()), "{}", lag.stdout);
}

#[test]
fn a_pipeline_runs_over_tls_with_scram() {
    let Some(secure) = secure_kafka() else { return };
    works(&secure, "scram", &secure.sasl_ssl, &sasl("SCRAM-SHA-512", &secure.password(), &secure.file("ca.crt")));
}

#[test]
fn a_pipeline_runs_over_tls_with_plain_and_the_password_in_a_file() {
    let Some(secure) = secure_kafka() else { return };
    let password = format!("${{file:{}}}", secure.file("password"));
    works(&secure, "plain", &secure.sasl_ssl, &sasl("PLAIN", &password, &secure.file("ca.crt")));
}

#[test]
fn a_pipeline_runs_over_tls_with_a_client_certificate() {
    let Some(secure) = secure_kafka() else { return };
    let files = [secure.file("ca.crt"), secure.file("client.crt"), secure.file("client.key")];
    let properties = [
        ("security.protocol", "SSL"),
        ("ssl.ca.location", files[0].as_str()),
        ("ssl.certificate.location", &files[1]),
        ("ssl.key.location", &files[2]),
    ];
    works(&secure, "certificate", &secure.ssl, &properties);
}

/// A client that the broker does not take: what it is given, and what the refusal names.
struct Refused<'a> {
    what: &'a str,
    brokers: &'a str,
    properties: &'a [(&'a str, &'a str)],
    names: &'a str,
}

#[test]
fn what_the_broker_does_not_take_is_refused_with_the_setting_and_the_remedy() {
    let Some(secure) = secure_kafka() else { return };
    let Some(world) = World::on(secure.broker.clone(), "refusals") else { return };
    let shop = Shop::open(&world);
    let secret = "hunter2-and-more";
    let password = secure.password();
    let [ca, unknown, client, client_key, stranger, stranger_key] =
        ["ca.crt", "unknown.crt", "client.crt", "client.key", "stranger.crt", "stranger.key"].map(|name| secure.file(name));
    let plain = &secure.broker.brokers;
    let refusals = [
        Refused {
            what: "a wrong password, SCRAM",
            brokers: &secure.sasl_ssl,
            properties: &sasl("SCRAM-SHA-512", secret, &ca),
            names: "sasl.password",
        },
        Refused {
            what: "a wrong password, PLAIN",
            brokers: &secure.sasl_ssl,
            properties: &sasl("PLAIN", secret, &ca),
            names: "sasl.password",
        },
        Refused {
            what: "a mechanism that is not offered",
            brokers: &secure.sasl_ssl,
            properties: &sasl("SCRAM-SHA-256", secret, &ca),
            names: "sasl.mechanism",
        },
        Refused {
            what: "an authority that did not sign the broker's certificate",
            brokers: &secure.sasl_ssl,
            properties: &sasl("PLAIN", &password, &unknown),
            names: "ssl.ca.location",
        },
        Refused {
            what: "an authority's file that is not there",
            brokers: &secure.sasl_ssl,
            properties: &sasl("PLAIN", &password, "/nowhere/ca.crt"),
            names: "ssl.ca.location",
        },
        Refused {
            what: "no client certificate",
            brokers: &secure.ssl,
            properties: &[("security.protocol", "SSL"), ("ssl.ca.location", &ca)],
            names: "ssl.certificate.location",
        },
        Refused {
            what: "a client certificate of an unknown authority",
            brokers: &secure.ssl,
            properties: &[
                ("security.protocol", "SSL"),
                ("ssl.ca.location", &ca),
                ("ssl.certificate.location", &stranger),
                ("ssl.key.location", &stranger_key),
            ],
            names: "ssl.certificate.location",
        },
        Refused { what: "no TLS towards TLS", brokers: &secure.ssl, properties: &[], names: "security.protocol" },
        Refused {
            what: "users without TLS towards TLS",
            brokers: &secure.sasl_ssl,
            properties: &[
                ("security.protocol", "SASL_PLAINTEXT"),
                ("sasl.mechanism", "PLAIN"),
                ("sasl.username", "tidemill"),
                ("sasl.password", secret),
            ],
            names: "security.protocol",
        },
        Refused { what: "TLS towards none", brokers: plain, properties: &sasl("PLAIN", secret, &ca), names: "security.protocol" },
        Refused {
            what: "no user towards users",
            brokers: &secure.sasl_ssl,
            properties: &[
                ("security.protocol", "SSL"),
                ("ssl.ca.location", &ca),
                ("ssl.certificate.location", &client),
                ("ssl.key.location", &client_key),
            ],
            names: "security.protocol",
        },
    ];
    let mut faults = Vec::new();
    for (number, Refused { what, brokers, properties, names }) in refusals.into_iter().enumerate() {
        let site = site(&world, &format!("refused-{number}"), brokers, properties);
        let output = site.run_within(Duration::from_secs(60), &["run", shop.sql()]);
        let text = format!("{}{}", output.stdout, output.stderr);
        eprintln!("{what}: {:.1?}, {}\n    {}", output.took, output.code, text.trim().replace('\n', "\n    "));
        let error = text.find("error: ").map_or("", |at| &text[at..]);
        let hint = error.find("hint: ").map_or("", |at| &error[at..]);
        if output.code != 2 || output.took > LIMIT || !error.contains(names) || hint.is_empty() {
            faults.push(format!("{what}: code {}, {:.1?}, should name {names}:\n{text}", output.code, output.took));
        }
        assert!(!text.contains(secret) && !text.contains(&password), "{what} shows the secret");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
