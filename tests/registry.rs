//! The registry client against a server that fails in all the ways that registries do.

#[path = "registry_support/mod.rs"]
mod registry_support;

use std::time::{Duration, Instant};

use registry_support::{Reply, Server};
use serde_json::json;
use tidemill::contract::{AvroSchema, Guid, HttpRegistry, Registry, RegistrySettings, SchemaId, WriterId};
use tidemill::error::{Error, Kind};

const ORDER: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"}]}"#;

fn client(urls: &[&str]) -> HttpRegistry {
    HttpRegistry::new(RegistrySettings { timeout: Duration::from_millis(500), ..RegistrySettings::at(urls.iter().copied()) })
        .unwrap()
}

fn id(number: u32) -> WriterId {
    SchemaId(number).into()
}

fn order() -> AvroSchema {
    AvroSchema::parse(ORDER).unwrap()
}

fn is_away(error: &Error) {
    assert_eq!(error.kind, Kind::Away, "{error}");
}

#[test]
fn a_schema_is_fetched_once() {
    let server = Server::start(|_| Reply::ok(json!({ "schema": ORDER })));
    let registry = client(&[&format!("{}/a/path/", server.url)]);
    for _ in 0..3 {
        assert_eq!(registry.schema(id(7)).unwrap().unwrap().full_name().as_deref(), Some("Order"));
    }
    let guid = Guid(std::array::from_fn(|at| at as u8));
    registry.schema(WriterId::Guid(guid)).unwrap().unwrap();
    registry.schema(WriterId::Guid(guid)).unwrap().unwrap();
    assert_eq!(server.lines(), ["GET /a/path/schemas/ids/7", "GET /a/path/schemas/guids/00010203-0405-0607-0809-0a0b0c0d0e0f"]);
}

#[test]
fn unknown_is_what_the_error_code_says_and_nothing_else() {
    let server = Server::start(|asked| match asked.line.rsplit('/').next() {
        Some("1") => Reply::error(404, 40403),
        // A path that the server does not know, told in two ways.
        Some("2") => Reply::status(404),
        _ => Reply::error(404, 404),
    });
    let registry = client(&[&server.url]);
    assert!(registry.schema(id(1)).unwrap().is_none());
    for number in [2, 3] {
        let error = registry.schema(id(number)).unwrap_err();
        assert_eq!(error.kind, Kind::Config, "good records must not become bad ones: {error}");
        assert!(error.hint.unwrap().contains("[registry] url"));
    }
    let error = registry.schema(WriterId::Guid(Guid([9; 16]))).unwrap_err();
    assert_eq!(error.kind, Kind::Contract);
    assert!(error.hint.unwrap().contains("GUIDs"));
    assert_eq!(server.lines().len(), 4, "an answer is not asked for again");
}

#[test]
fn a_failing_registry_is_asked_again_and_then_left_alone_for_a_while() {
    let server = Server::start(|_| Reply::error(500, 50001));
    let registry = client(&[&server.url]);
    let began = Instant::now();
    let error = registry.schema(id(1)).unwrap_err();
    is_away(&error);
    assert!(error.message.contains("status 500, error code 50001"), "{error}");
    assert!(began.elapsed() >= Duration::from_millis(300), "there is a wait between tries, and it grows");
    assert_eq!(server.lines().len(), 3);
    // The breaker is open: nothing goes out.
    let began = Instant::now();
    is_away(&registry.latest("s").unwrap_err());
    assert!(began.elapsed() < Duration::from_millis(100));
    assert_eq!(server.lines().len(), 3);
}

#[test]
fn a_registry_that_comes_back_is_used_again() {
    let mut calls = 0;
    let server = Server::start(move |_| {
        calls += 1;
        if calls <= 4 { Reply::error(503, 50301) } else { Reply::ok(json!({ "schema": ORDER })) }
    });
    let registry = client(&[&server.url]);
    is_away(&registry.schema(id(1)).unwrap_err());
    std::thread::sleep(Duration::from_millis(600));
    // The first try still fails, the second does not.
    assert!(registry.schema(id(1)).unwrap().is_some());
    assert!(registry.schema(id(2)).unwrap().is_some(), "the breaker is closed again");
    assert_eq!(server.lines().len(), 6);
}

#[test]
fn a_slow_registry_is_away_and_not_asked_three_times_over() {
    let server = Server::start(|_| Reply { after: Duration::from_secs(3), ..Reply::ok(json!({ "schema": ORDER })) });
    let registry = client(&[&server.url]);
    let began = Instant::now();
    let error = registry.schema(id(1)).unwrap_err();
    is_away(&error);
    assert!(error.message.contains("no answer in time"), "{error}");
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
}

#[test]
fn what_is_no_registry_is_away_and_makes_no_record_bad() {
    for body in ["<html>sign in</html>", "", "[1, 2]", "{\"schem\": 1}", "{\"schema\": 5}", "\"\\ud800\""] {
        let server = Server::start(move |_| Reply::ok(body));
        is_away(&client(&[&server.url]).schema(id(1)).unwrap_err());
        is_away(&client(&[&server.url]).latest("s").unwrap_err());
        is_away(&client(&[&server.url]).register("s", &order()).unwrap_err());
        if body != "[1, 2]" {
            is_away(&client(&[&server.url]).versions("s").unwrap_err());
        }
        is_away(&client(&[&server.url]).subjects().unwrap_err());
        is_away(&client(&[&server.url]).check("s", &order()).unwrap_err());
    }
    is_away(&client(&[&Server::nobody()]).schema(id(1)).unwrap_err());
}

#[test]
fn another_address_answers_when_the_first_does_not() {
    let bad = Server::start(|_| Reply::error(502, 0));
    let good = Server::start(|_| Reply::ok(json!({ "schema": ORDER })));
    let registry = client(&[&Server::nobody(), &bad.url, &good.url]);
    assert!(registry.schema(id(1)).unwrap().is_some());
    assert!(registry.schema(id(2)).unwrap().is_some());
    assert_eq!(bad.lines().len(), 1, "the one that answered is asked first from then on");
    assert_eq!(good.lines().len(), 2);
}

#[test]
fn who_asks_is_told_in_the_way_that_is_set() {
    let server = Server::start(|_| Reply::ok("[]"));
    let settings = |change: &dyn Fn(&mut RegistrySettings)| {
        let mut settings = RegistrySettings::at([&server.url]);
        settings.headers = vec![("X-Tenant".into(), "shop".into())];
        change(&mut settings);
        HttpRegistry::new(settings).unwrap().subjects().unwrap();
        server.asked().pop().unwrap()
    };
    let asked = settings(&|s| (s.user, s.password) = (Some("ada".into()), Some("pass:word".into())));
    assert!(asked.has_header("authorization: Basic YWRhOnBhc3M6d29yZA=="), "{asked:?}");
    assert!(asked.has_header("x-tenant: shop"));
    let asked = settings(&|s| s.token = Some("t0ken".into()));
    assert!(asked.has_header("authorization: Bearer t0ken"), "{asked:?}");
    let asked = settings(&|s| s.urls = vec![s.urls[0].replace("http://", "http://ada:pass%3Aword@")]);
    assert!(asked.headers.iter().any(|header| header.starts_with("authorization: Basic ")), "{asked:?}");
}

#[test]
fn secrets_stay_out_of_errors() {
    for (status, kind) in [(401, Kind::Config), (403, Kind::Config), (500, Kind::Away), (404, Kind::Config), (400, Kind::Failed)]
    {
        let server = Server::start(move |_| Reply::status(status));
        let url = server.url.replace("http://", "http://ada:hunter2@");
        let mut settings = RegistrySettings::at([&url, &Server::nobody().replace("http://", "http://ada:hunter2@")]);
        settings.token = Some("hunter2".into());
        let error = HttpRegistry::new(settings).unwrap().subjects().unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let error = HttpRegistry::new(RegistrySettings::at(["ftp://ada:hunter2@host"])).err().unwrap();
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn what_a_subject_holds_is_not_registered_again() {
    let server = Server::start(|asked| match asked.line.as_str() {
        "POST /subjects/a-value" => Reply::ok(json!({ "subject": "a-value", "id": 5, "version": 3, "schema": ORDER })),
        line => panic!("{line}"),
    });
    let registry = client(&[&server.url]);
    for _ in 0..2 {
        let found = registry.register("a-value", &order()).unwrap();
        assert_eq!((found.id, found.version), (SchemaId(5), 3));
    }
    assert!(registry.schema(id(5)).unwrap().is_some(), "the id is known by now");
    assert_eq!(server.lines(), ["POST /subjects/a-value"]);
    assert_eq!(server.asked()[0].body, json!({ "schema": ORDER }).to_string());
}

#[test]
fn a_new_schema_is_registered_once() {
    let mut there = false;
    let server = Server::start(move |asked| match asked.line.as_str() {
        "POST /subjects/a-value" if there => Reply::ok(json!({ "id": 5, "version": 4, "schema": ORDER })),
        "POST /subjects/a-value" => Reply::error(404, 40401),
        "POST /subjects/a-value/versions" => {
            there = true;
            Reply::ok(json!({ "id": 5 }))
        }
        line => panic!("{line}"),
    });
    let registry = client(&[&server.url]);
    for _ in 0..2 {
        let found = registry.register("a-value", &order()).unwrap();
        assert_eq!((found.id, found.version), (SchemaId(5), 4));
    }
    assert_eq!(server.lines().len(), 3);
}

#[test]
fn a_refused_schema_says_which_fields() {
    let old = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"string"}]}"#;
    let server = Server::start(move |asked| match asked.line.as_str() {
        "POST /subjects/a-value" => Reply::error(404, 40403),
        "POST /subjects/a-value/versions" => Reply::error(409, 409),
        "POST /compatibility/subjects/a-value/versions/latest" => Reply::ok(json!({ "is_compatible": false })),
        "GET /config/a-value" => Reply::error(404, 40408),
        "GET /config" => Reply::ok(json!({ "compatibilityLevel": "BACKWARD" })),
        "GET /subjects/a-value/versions" => Reply::ok("[1]"),
        "GET /subjects/a-value/versions/1" => Reply::ok(json!({ "subject": "a-value", "id": 1, "version": 1, "schema": old })),
        line => panic!("{line}"),
    });
    let error = client(&[&server.url]).register("a-value", &order()).unwrap_err();
    assert_eq!(error.kind, Kind::Contract);
    assert!(error.message.contains("BACKWARD") && error.message.contains("field \"id\": writer has string"), "{error}");
}

#[test]
fn references_are_followed_and_circles_end() {
    let order =
        r#"{"type":"record","name":"Order","fields":[{"name":"to","type":"shop.Address"},{"name":"by","type":"shop.Person"}]}"#;
    let person = r#"{"type":"record","name":"Person","namespace":"shop","fields":[{"name":"home","type":"shop.Address"}]}"#;
    let address = r#"{"type":"record","name":"Address","namespace":"shop","fields":[{"name":"city","type":"string"}]}"#;
    let to = |name: &str| json!({ "name": format!("shop.{name}"), "subject": name.to_lowercase(), "version": 1 });
    let server = Server::start(move |asked| match asked.line.as_str() {
        "GET /schemas/ids/1" => {
            Reply::ok(json!({ "schema": order, "schemaType": "AVRO", "references": [to("Person"), to("Address")] }))
        }
        "GET /subjects/person/versions/1" => {
            Reply::ok(json!({ "id": 2, "version": 1, "schema": person, "references": [to("Address"), to("Person")] }))
        }
        "GET /subjects/address/versions/1" => Reply::ok(json!({ "id": 3, "version": 1, "schema": address })),
        line => panic!("{line}"),
    });
    let schema = client(&[&server.url]).schema(id(1)).unwrap().unwrap();
    assert!(schema.text.contains("\"city\""), "the text stands alone: {}", schema.text);
    AvroSchema::parse(&schema.text).unwrap();
    assert_eq!(server.lines().len(), 3, "each version once: {:?}", server.lines());
}

#[test]
fn other_types_of_schema_are_refused_by_name() {
    let server = Server::start(|_| Reply::ok(json!({ "id": 1, "version": 1, "schema": "syntax", "schemaType": "PROTOBUF" })));
    let registry = client(&[&server.url]);
    for error in [registry.schema(id(1)).unwrap_err(), registry.latest("s").unwrap_err()] {
        assert_eq!(error.kind, Kind::Contract);
        assert!(error.message.contains("of type PROTOBUF"), "{error}");
    }
}

#[test]
fn names_with_slashes_and_spaces_are_one_part_of_the_path() {
    let server = Server::start(|_| Reply::error(404, 40401));
    assert!(client(&[&server.url]).latest("a/b c-value").unwrap().is_none());
    assert_eq!(server.lines(), ["GET /subjects/a%2Fb%20c-value/versions/latest"]);
}

#[test]
fn tls_files_that_can_not_be_used_are_refused_by_setting() {
    let dir = tempfile::tempdir().unwrap();
    let junk = dir.path().join("junk.pem");
    std::fs::write(&junk, "no certificate").unwrap();
    let absent = dir.path().join("absent.pem");
    let refused = |change: &dyn Fn(&mut RegistrySettings)| {
        let mut settings = RegistrySettings::at(["https://localhost"]);
        change(&mut settings);
        let error = HttpRegistry::new(settings).err().expect("it is refused");
        assert_eq!(error.kind, Kind::Config);
        assert!(error.hint.is_some());
        error.message
    };
    assert!(refused(&|s| s.ca_file = Some(absent.clone())).contains("[registry] ca_file"));
    assert!(refused(&|s| s.ca_file = Some(junk.clone())).contains("[registry] ca_file"));
    assert!(refused(&|s| s.cert_file = Some(junk.clone())).contains("[registry] key_file is missing"));
    assert!(refused(&|s| s.key_file = Some(junk.clone())).contains("[registry] cert_file is missing"));
    assert!(refused(&|s| (s.cert_file, s.key_file) = (Some(junk.clone()), Some(junk.clone()))).contains("[registry] cert_file"));
}
