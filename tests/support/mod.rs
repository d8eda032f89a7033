//! A real Kafka and a real schema registry for tests: one given by the environment, containers, or the machine's Java.
//!
//! - `TEST_KAFKA_BROKERS` (and `TEST_SCHEMA_REGISTRY`): use those, start nothing.
//! - else containers, if a Docker engine answers;
//! - else Apache Kafka and Apicurio from Maven Central by `scripts/kafka`.
//!
//! It says which. With `REQUIRE_KAFKA=1` it fails if there is none; without, tests say that they are skipped, and why. What was started is
//! shared by all tests of a process, and a watchdog outside of the process stops it when the process ends, however it ends.
#![allow(dead_code)]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use testcontainers::core::IntoContainerPort;
use testcontainers::runners::SyncRunner;
use testcontainers::{Container, GenericImage, ImageExt};

const KAFKA_IMAGE: (&str, &str) = ("apache/kafka", "4.3.1");
const REGISTRY_IMAGE: (&str, &str) = ("apicurio/apicurio-registry-mem", "2.6.13.Final");

/// Where a broker and a registry answer.
#[derive(Clone, Debug)]
pub struct Broker {
    pub brokers: String,
    /// Base address of Confluent's API.
    pub registry: Option<String>,
    /// `None`: not ours to stop and start.
    local: Option<Local>,
}

#[derive(Clone, Debug)]
struct Local {
    dir: PathBuf,
    port: u16,
    controller_port: u16,
    registry_port: u16,
}

/// A broker that also listens with TLS.
#[derive(Clone, Debug)]
pub struct SecureBroker {
    pub broker: Broker,
    /// With users; `tidemill` has the password that `password` gives, for PLAIN and SCRAM-SHA-512.
    pub sasl_ssl: String,
    /// With client certificates.
    pub ssl: String,
    /// `ca.crt`, `client.crt`, `client.key`; `unknown.crt`, `stranger.crt` and `stranger.key` are of an authority that the broker does not
    /// know.
    pub tls: PathBuf,
}

impl SecureBroker {
    pub fn password(&self) -> String {
        std::fs::read_to_string(self.tls.join("password")).expect("the script wrote it")
    }

    pub fn file(&self, name: &str) -> String {
        self.tls.join(name).to_str().expect("a path in UTF-8").to_owned()
    }
}

/// A broker with secured listeners, shared by all tests of this process; needs Java and openssl.
pub fn secure_kafka() -> Option<SecureBroker> {
    static SHARED: OnceLock<Result<SecureBroker, String>> = OnceLock::new();
    answer(SHARED.get_or_init(start_secure).clone())
}

/// The broker that all tests of this process share; `None` when there is none, after saying so.
pub fn kafka() -> Option<Broker> {
    static SHARED: OnceLock<Result<Broker, String>> = OnceLock::new();
    answer(SHARED.get_or_init(find).clone())
}

/// A broker for one test alone, which may stop and start it; needs Java.
pub fn kafka_of_my_own() -> Option<Broker> {
    answer(start_local())
}

fn answer<T>(found: Result<T, String>) -> Option<T> {
    match found {
        Ok(broker) => Some(broker),
        Err(why) if std::env::var("REQUIRE_KAFKA").is_ok_and(|value| value == "1") => {
            panic!("REQUIRE_KAFKA=1 and there is no Kafka: {why}")
        }
        Err(why) => {
            eprintln!("SKIPPED, no Kafka: {why}");
            None
        }
    }
}

fn find() -> Result<Broker, String> {
    if let Ok(brokers) = std::env::var("TEST_KAFKA_BROKERS") {
        eprintln!("tests use the Kafka of TEST_KAFKA_BROKERS: {brokers}");
        return Ok(Broker { brokers, registry: std::env::var("TEST_SCHEMA_REGISTRY").ok(), local: None });
    }
    let no_docker = match start_containers() {
        Ok(broker) => {
            eprintln!("tests use containers of {}:{}: {}", KAFKA_IMAGE.0, KAFKA_IMAGE.1, broker.brokers);
            return Ok(broker);
        }
        Err(why) => why,
    };
    match start_local() {
        Ok(broker) => {
            eprintln!("tests use Apache Kafka from Maven Central, run by this machine's Java: {}", broker.brokers);
            Ok(broker)
        }
        Err(no_java) => {
            Err(format!("TEST_KAFKA_BROKERS is not set; containers: {no_docker}; Apache Kafka from Maven Central: {no_java}"))
        }
    }
}

impl Broker {
    /// Stops the broker as a crash does. Only for a broker of the test's own.
    pub fn stop_broker(&self) {
        self.script(&["stop-broker", "--now"]);
    }

    pub fn start_broker(&self) {
        self.script(&["start-broker"]);
    }

    pub fn stop_registry(&self) {
        self.script(&["stop-registry"]);
    }

    pub fn start_registry(&self) {
        self.script(&["start-registry"]);
    }

    fn script(&self, command: &[&str]) {
        let local = self.local.as_ref().expect("only a broker of the test's own is stopped and started");
        run_script(command, local, &[]).unwrap_or_else(|why| panic!("scripts/kafka {command:?}: {why}"));
    }
}

fn start_containers() -> Result<Broker, String> {
    let [port, registry_port] = free_ports();
    let advertised = format!("PLAINTEXT://127.0.0.1:{port}");
    let settings = [
        ("KAFKA_NODE_ID", "1"),
        ("KAFKA_PROCESS_ROLES", "broker,controller"),
        ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@localhost:9093"),
        ("KAFKA_LISTENERS", "PLAINTEXT://:9092,CONTROLLER://:9093"),
        ("KAFKA_ADVERTISED_LISTENERS", &advertised),
        ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT"),
        ("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1"),
        ("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1"),
        ("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1"),
        ("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0"),
        ("KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS", "1000"),
        ("KAFKA_TRANSACTION_ABORT_TIMED_OUT_TRANSACTION_CLEANUP_INTERVAL_MS", "500"),
        ("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false"),
    ];
    let image = GenericImage::new(KAFKA_IMAGE.0, KAFKA_IMAGE.1)
        .with_wait_for(testcontainers::core::WaitFor::message_on_stdout("Kafka Server started"))
        .with_mapped_port(port, 9092.tcp());
    let kafka = settings.into_iter().fold(image, |image, (name, value)| image.with_env_var(name, value));
    let kafka = keep(kafka.start().map_err(|error| error.to_string())?)?;
    let registry = GenericImage::new(REGISTRY_IMAGE.0, REGISTRY_IMAGE.1)
        .with_wait_for(testcontainers::core::WaitFor::message_on_stdout("Listening on"))
        .with_mapped_port(registry_port, 8080.tcp());
    let registry = keep(registry.start().map_err(|error| error.to_string())?)?;
    remove_with_this_process(&[&kafka, &registry]);
    Ok(Broker {
        brokers: format!("127.0.0.1:{port}"),
        registry: Some(format!("http://127.0.0.1:{registry_port}/apis/ccompat/v7")),
        local: None,
    })
}

/// A container lives until its handle is dropped, and this one is for the whole process.
fn keep(container: Container<GenericImage>) -> Result<String, String> {
    let id = container.id().to_owned();
    std::mem::forget(container);
    Ok(id)
}

fn remove_with_this_process(containers: &[&str]) {
    let watch = "while kill -0 \"$1\" 2>/dev/null; do sleep 1; done; shift; docker rm -f \"$@\"";
    let pid = std::process::id().to_string();
    let watchdog = Command::new("sh").args(["-c", watch, "watchdog", &pid]).args(containers).spawn();
    // It outlives this process.
    std::mem::forget(watchdog.expect("a shell to remove the containers at the end"));
}

fn start_secure() -> Result<SecureBroker, String> {
    let [sasl_ssl, ssl] = free_ports();
    let broker = start_with(&["--sasl-ssl-port", &sasl_ssl.to_string(), "--ssl-port", &ssl.to_string()])?;
    let tls = broker.local.as_ref().expect("it was started here").dir.join("tls");
    Ok(SecureBroker { broker, sasl_ssl: format!("127.0.0.1:{sasl_ssl}"), ssl: format!("127.0.0.1:{ssl}"), tls })
}

fn start_local() -> Result<Broker, String> {
    start_with(&[])
}

fn start_with(more: &[&str]) -> Result<Broker, String> {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let [port, controller_port, registry_port] = free_ports();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{}-{number}", std::process::id()));
    let local = Local { dir, port, controller_port, registry_port };
    run_script(&["start"], &local, &[&["--with-parent", &std::process::id().to_string()], more].concat())?;
    Ok(Broker {
        brokers: format!("127.0.0.1:{port}"),
        registry: Some(format!("http://127.0.0.1:{registry_port}/apis/ccompat/v7")),
        local: Some(local),
    })
}

fn run_script(command: &[&str], local: &Local, more: &[&str]) -> Result<(), String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
    let output = Command::new(script)
        .args(command)
        .arg("--dir")
        .arg(&local.dir)
        .args(["--port", &local.port.to_string(), "--controller-port", &local.controller_port.to_string()])
        .args(["--registry-port", &local.registry_port.to_string()])
        .args(more)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// Ports that nobody listens on at this moment.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}
