//! `tidemill demo`: a small shop on the embedded log, run in the five ways that must give the same tables; prints that they are equal.

mod modes;
mod shop;
mod show;

use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};

use self::modes::Modes;
use self::shop::{SQL, Shop};
use crate::cli::test::compare;
use crate::cli::test::world::Tables;
use crate::cli::{Context, Format};
use crate::contract::lock::Pinned;
use crate::contract::subject::Strategy;
use crate::error::Result;
use crate::topology::{self, Options, SqlFile};

/// Runs a small shop on the embedded log: live, backfilled, killed, cut over, shared by three workers; compares the tables. Needs nothing
/// but this binary.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Orders to make.
    #[arg(long, default_value_t = 20_000)]
    orders: u32,
    /// Seed of the shop's records.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

/// A mode's name and what it gave.
type Outcome = (&'static str, Tables);

pub fn run(args: &Args, _context: &Context) -> Result<ExitCode> {
    let began = Instant::now();
    let text = args.output == Format::Text;
    let say = |line: &str| {
        if text {
            println!("{line}");
        }
    };
    let shop = Shop::new(args.orders, args.seed)?;
    let file = SqlFile { name: "demo.sql".into(), text: SQL.into() };
    let topology = topology::compile(&file, &Pinned::new(None, &shop.registry, Strategy::TopicName), &Options::default())?;
    say("the pipeline:\n");
    SQL.lines().for_each(|line| say(&format!("  {line}")));
    let outcomes = all(&Modes { shop: &shop, topology: &topology }, say)?;

    let differences: Vec<(&str, Vec<String>)> =
        outcomes[1..].iter().map(|(mode, tables)| (*mode, compare::between(&outcomes[0].1, tables))).collect();
    let equal = differences.iter().all(|(_, lines)| lines.is_empty());
    let seconds = began.elapsed().as_secs_f64();
    if text {
        show::tables(&outcomes[0].1, &topology);
        println!();
        outcomes.iter().for_each(|(mode, tables)| println!("{mode:<20} {}", show::summary(tables)));
        match equal {
            true => println!("\nthe tables of all five are equal ({seconds:.1} s)"),
            false => println!("\nTHE TABLES DIFFER:"),
        }
        for (mode, lines) in differences {
            lines.iter().take(20).for_each(|line| println!("  {mode}: {line}"));
        }
    } else {
        println!("{}", report(&shop, &outcomes, &differences, seconds));
    }
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn all(modes: &Modes<'_>, say: impl Fn(&str)) -> Result<Vec<Outcome>> {
    let Shop { orders, changes, .. } = modes.shop;
    say(&format!("\n1. live: {orders} orders (some late, some bad) and {changes} changes of customers arrive"));
    let (world, live, decisions) = modes.live()?;
    say("\n2. backfill: the same range of the same log, through the same code, into shadow topics");
    let backfill = modes.backfill(&world)?;
    say("\n3. live again, killed twice and restarted");
    let killed = modes.killed(&decisions)?;
    say("\n4. a backfill up to the middle, cut over to live at exactly that offset");
    let cut_over = modes.cut_over(&decisions)?;
    say("\n5. live, the tasks shared by three workers");
    let three = modes.three_workers(&decisions)?;
    let outcomes =
        [("live", live), ("backfill", backfill), ("killed, restarted", killed), ("cut over", cut_over), ("three workers", three)];
    Ok(outcomes.into())
}

fn report(shop: &Shop, outcomes: &[Outcome], differences: &[(&str, Vec<String>)], seconds: f64) -> Value {
    let of_mode = |mode: &str| differences.iter().find(|(other, _)| *other == mode).map_or(&[][..], |(_, lines)| lines);
    let mode = |(mode, tables): &Outcome| json!({"mode": mode, "differences": of_mode(mode), "dead_letters": tables.dead.len(), "late": tables.late.len()});
    json!({
        "orders": shop.orders, "changes": shop.changes, "seconds": seconds,
        "equal": differences.iter().all(|(_, lines)| lines.is_empty()),
        "modes": outcomes.iter().map(mode).collect::<Vec<_>>(),
        "tables": outcomes[0].1.sinks,
    })
}
