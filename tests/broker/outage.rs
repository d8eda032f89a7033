//! The broker or the registry is away for a while.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tidemill::codec::partition::murmur2;
use tidemill::record::{Outgoing, Topic};

use crate::shop::{self, PARTITIONS, Shop, Source, Writing};
use crate::world::{DEADLINE, World, avro, seed, wait_until};

/// Seconds without a broker; `TEST_OUTAGE_SECONDS` for more.
const OUTAGE: u64 = 20;
const CRASHES: usize = 5;
/// Until a client has found a broker again, its transaction is settled and its state restored, on a machine that is busy.
const LONG: Duration = Duration::from_secs(180);

#[test]
fn without_a_broker_it_waits_and_goes_on_by_itself() {
    let Some(world) = World::own("outage") else { return };
    let seconds = std::env::var("TEST_OUTAGE_SECONDS").map_or(OUTAGE, |text| text.parse().expect("a number of seconds"));
    let shop = Shop::open(&world);
    let group = world.group(1);
    let mut process = world.site("live", "").start(&["run", shop.sql()]);
    let writing = Writing::start(&world, &shop, seed(), 1_000);
    wait_until("it commits", DEADLINE, || world.progress(&group, &shop.orders) > 2_000);
    world.broker.stop_broker();
    std::thread::sleep(Duration::from_secs(seconds));
    assert!(process.is_running(), "it ended while the broker was away:\n{}", process.said());
    world.broker.start_broker();
    let mut before = None;
    wait_until("it goes on", LONG, || {
        let Ok(committed) = world.log.committed(&group, &world.partitions(&shop.orders)) else { return false };
        let now: i64 = committed.values().map(|c| c.next.0).sum();
        now > *before.get_or_insert(now) + 2_000
    });
    writing.stop();
    wait_until("it catches up", LONG, || world.caught_up(&shop.orders));
    assert_eq!(process.terminate(), 0);
    shop::assert_equal(&shop::actual(&world, None, 1), &shop::expected(&world, &shop));
}

/// Crashes of the broker that hit commits at any point: what was decided stays, what was not is done again.
#[test]
fn a_broker_that_crashes_in_the_middle_of_commits() {
    let Some(world) = World::own("crashes") else { return };
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let shop = Shop::open(&world);
    let group = world.group(1);
    let mut process = world.site("live", "").start(&["run", shop.sql()]);
    let writing = Writing::start(&world, &shop, seed, 1_000);
    let mut reached = 0;
    for crash in 0..CRASHES {
        wait_until("it goes on", LONG, || world.progress(&group, &shop.orders) > reached + 500);
        std::thread::sleep(Duration::from_millis(random.random_range(0..1_000)));
        reached = world.progress(&group, &shop.orders).max(reached);
        world.broker.stop_broker();
        world.broker.start_broker();
        assert!(process.is_running(), "it ended after crash {crash} of the broker:\n{}", process.said());
    }
    wait_until("it goes on", LONG, || world.progress(&group, &shop.orders) > reached + 500);
    writing.stop();
    wait_until("it catches up", LONG, || world.caught_up(&shop.orders));
    assert_eq!(process.terminate(), 0);
    shop::assert_equal(&shop::actual(&world, None, 1), &shop::expected(&world, &shop));
}

/// The same order with a field more: another schema id.
const ORDER_2: &str = r#"{"type": "record", "name": "Order", "namespace": "shop", "fields": [
  {"name": "order_id", "type": "long"},
  {"name": "customer_id", "type": "string"},
  {"name": "note", "type": ["null", "string"], "default": null},
  {"name": "amount", "type": "long"},
  {"name": "ordered_at", "type": {"type": "long", "logicalType": "timestamp-millis"}}
]}"#;

#[test]
fn without_a_registry_known_ids_go_on_and_new_ones_wait() {
    let Some(world) = World::shared("registry") else { return };
    let shop = Shop::open(&world);
    let proxy = Proxy::start(&world.registry_url);
    let config = world.site("live", "");
    let text = std::fs::read_to_string(&config.config).unwrap().replace(&world.registry_url, &proxy.url);
    std::fs::write(&config.config, text).unwrap();
    let mut process = config.start(&["run", shop.sql()]);
    let mut source = Source::new(1, shop.writer.clone());
    world.write(&shop.orders, &source.batch(2_000));
    wait_until("it catches up", Duration::from_secs(30), || world.caught_up(&shop.orders));

    let newer = world.register(&shop.orders, ORDER_2);
    assert_ne!(newer.0, shop.writer.0);
    proxy.stop();
    let order = json!({"order_id": 1_000_000, "customer_id": "c1", "note": "hello", "amount": 7, "ordered_at": shop::now_ms()});
    let waits = murmur2(b"c1", PARTITIONS);
    let mut out = Outgoing::default();
    out.push(waits, shop::now_ms(), Some(b"c1"), Some(&avro(&newer, &order)), Vec::new());
    world.write(&shop.orders, &out);
    // Known ids, behind the one that waits and on the other partitions.
    world.write(&shop.orders, &source.batch(2_000));
    let dead = Topic::new(format!("tidemill.{}.dead", world.name));
    let dead_before = shop::expected(&world, &shop).dead.len();
    let ends = world.ends(&shop.orders);
    let others = || {
        let committed = world.log.committed(&world.group(1), &world.partitions(&shop.orders)).unwrap();
        ends.iter()
            .filter(|(p, end)| committed.get(p).is_some_and(|c| c.next >= **end))
            .map(|(p, _)| p.partition.0)
            .collect::<Vec<_>>()
    };
    let all_others: Vec<i32> = (0..PARTITIONS).filter(|p| *p != waits).collect();
    wait_until("known ids go on", Duration::from_secs(30), || others() == all_others);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(others(), all_others, "the record with an id that can't be looked up waits");
    assert!(
        world.read(&dead).iter().all(|row| row.header("tidemill.class").as_deref() != Some("schema")),
        "a good record was diverted"
    );
    assert!(process.is_running(), "{}", process.said());

    proxy.go_on();
    wait_until("the record goes through", Duration::from_secs(30), || world.caught_up(&shop.orders));
    assert_eq!(process.terminate(), 0);
    let expected = shop::expected(&world, &shop);
    assert_eq!(expected.dead.len(), dead_before);
    assert!(expected.sold.contains_key(&(1_000_000, "c1".to_string(), 7)));
    shop::assert_equal(&shop::actual(&world, None, 1), &expected);
}

/// Stands before the registry, so that one test can take it away from one process.
struct Proxy {
    url: String,
    down: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn start(url: &str) -> Proxy {
        let rest = url.strip_prefix("http://").unwrap();
        let (target, path) = rest.split_once('/').unwrap_or((rest, ""));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/{path}", listener.local_addr().unwrap());
        let (down, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (refuses, connections, target) = (down.clone(), open.clone(), target.to_string());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A closed connection is what a client of a process that ends sees.
                if refuses.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                connections.lock().unwrap().extend(ends);
                pass(client.try_clone().unwrap(), server.try_clone().unwrap());
                pass(server, client);
            }
        });
        Proxy { url, down, open }
    }

    fn stop(&self) {
        self.down.store(true, Ordering::SeqCst);
        for connection in self.open.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn go_on(&self) {
        self.down.store(false, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read) = from.read(&mut buffer) {
            if read == 0 || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
