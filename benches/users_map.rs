//! Ten million users in a compiled map: how long it takes to build, how large it is, how quick
//! it answers. Run by `scripts/bench-users`; the figures stand in `docs/benchmarks.md`.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::format_collect,
    reason = "a bench that cannot go on must stop, and it measures real time"
)]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use pointsman::config::{Canonical, Config};
use pointsman::metrics::Metrics;
use pointsman::names::UserName;
use pointsman::net::resolve::Resolver;
use pointsman::routing::maps::{self, InputFormat, MapFile, Maps, Order, Rules};
use pointsman::routing::query::Query;
use pointsman::routing::{SlotTable, Surroundings, Table};

/// Lookups of each kind.
const LOOKUPS: u64 = 1_000_000;
/// Lookups by way of the chain.
const ROUTES: u64 = 50_000;

/// What is promised for ten million names.
const BUILD_SECONDS_MAX: f64 = 60.0;
const BYTES_A_NAME_MAX: f64 = 50.0;
const LOOKUP_P50_MAX: Duration = Duration::from_micros(5);

/// Measures a compiled users map.
#[derive(Parser)]
#[command(name = "scripts/bench-users", args_override_self = true)]
struct Options {
    /// Names in the map.
    #[arg(long, default_value_t = 10_000_000)]
    names: u64,
    /// Where the files lie; removed at the end.
    #[arg(long)]
    folder: PathBuf,
    /// Exit with 1 when a promised figure is missed.
    #[arg(long)]
    check: bool,
    /// Given by cargo; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    fs::create_dir_all(&options.folder).unwrap();
    let good = measure(&options);
    fs::remove_dir_all(&options.folder).unwrap();
    ExitCode::from(u8::from(options.check && !good))
}

/// The name of a user: of every length, spread over a hundred domains.
fn name(number: u64) -> String {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:x}.{number}@domain{}.example", spread >> 48, spread % 100)
}

fn write_users(path: &Path, names: u64) {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    for number in 0..names {
        // In no order: odd factors visit every number once.
        let number = number.wrapping_mul(7_368_787) % names;
        writeln!(file, "{} shard{}", name(number), number % 20).unwrap();
    }
    file.flush().unwrap();
}

fn measure(options: &Options) -> bool {
    let (input, output) = (options.folder.join("users"), options.folder.join("users.map"));
    write_users(&input, options.names);
    let rules = Rules { canonical: Canonical::Lowercase, default_domain: None };
    let format = InputFormat::Text;
    let order = Order { input, format, output: output.clone(), rules: rules.clone(), shards: None };
    let start = Instant::now();
    let built = maps::build(&order).unwrap();
    let build_seconds = start.elapsed().as_secs_f64();
    let bytes_a_name = built.bytes as f64 / built.names as f64;
    let name_bytes = name(options.names / 2).len();
    println!("names                    {}", built.names);
    println!("build                    {build_seconds:.1} s");
    println!("memory at most           {} MB", memory_peak_kb() / 1024);
    println!("file                     {bytes_a_name:.1} bytes a name of about {name_bytes}");

    let start = Instant::now();
    let map = Maps::default().open(&output, &rules).unwrap();
    println!("open, read through       {:.2} s", start.elapsed().as_secs_f64());
    let found = percentiles(lookups(&map, options.names, 0));
    println!(
        "lookup, found            p50 {:?}  p99 {:?}  p99.9 {:?}",
        found[0], found[1], found[2]
    );
    let missed = percentiles(lookups(&map, options.names, options.names));
    println!(
        "lookup, not there        p50 {:?}  p99 {:?}  p99.9 {:?}",
        missed[0], missed[1], missed[2]
    );
    drop(map);
    let routed = percentiles(routes(options.names, &output));
    println!(
        "by the lookups' threads  p50 {:?}  p99 {:?}  p99.9 {:?}",
        routed[0], routed[1], routed[2]
    );
    build_seconds < BUILD_SECONDS_MAX
        && bytes_a_name <= BYTES_A_NAME_MAX
        && found[0] < LOOKUP_P50_MAX
}

/// Times of lookups of names in no order; those from `from` on are in the map or not.
fn lookups(map: &Arc<MapFile>, names: u64, from: u64) -> Vec<Duration> {
    let warm_up = 2;
    let mut times = Vec::new();
    for round in 0..warm_up {
        times = (0..LOOKUPS)
            .map(|number| {
                let number = (number + round * LOOKUPS).wrapping_mul(2_654_435_761) % names;
                let name = name(from + number);
                let start = Instant::now();
                let shard = map.lookup(&name).unwrap();
                let elapsed = start.elapsed();
                assert_eq!(shard.is_some(), from == 0, "{name}");
                elapsed
            })
            .collect();
    }
    times
}

/// Times of whole routes, as logins ask for them.
fn routes(names: u64, map: &Path) -> Vec<Duration> {
    let shards: String = (0..20)
        .map(|number| {
            format!(
                "  shard{number}: {{ kind: primary, backends: \
                 [ {{ name: b{number}, address: \"127.0.0.1:1\", tls: none }} ] }}\n"
            )
        })
        .collect();
    let text = format!(
        "listeners: [ {{ name: imap, address: \"127.0.0.1:143\", tls: none }} ]\n\
         shards:\n{shards}\
         routing: {{ lookups: [ {{ users: {{ file: \"{}\" }} }} ] }}\n",
        map.canonicalize().unwrap().display()
    );
    let config = Config::parse(Path::new("/bench.yaml"), &text).unwrap();
    let control =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let metrics = Metrics::register().unwrap();
    let resolver = control.block_on(Resolver::new(&config.dns, Arc::clone(&metrics))).unwrap();
    let around = Surroundings {
        runtime: control.handle().clone(),
        metrics,
        maps: Maps::default(),
        resolver,
        former: None,
    };
    let table = {
        let _in_runtime = control.enter();
        Table::load(&config, &SlotTable::unassigned(), 1, &around).unwrap()
    };
    let worker = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let times = worker.block_on(async {
        let mut times = Vec::new();
        for number in 0..ROUTES {
            let user = UserName::new(name(number.wrapping_mul(2_654_435_761) % names));
            let start = Instant::now();
            let route = table.route(&Query::of_user(&user), |_| ()).await;
            times.push(start.elapsed());
            assert!(route.is_ok(), "{user}");
        }
        times
    });
    drop(table);
    control.shutdown_background();
    times
}

/// The 50th, 99th and 99.9th of a hundred.
fn percentiles(mut times: Vec<Duration>) -> [Duration; 3] {
    times.sort_unstable();
    [500, 990, 999].map(|place| times[times.len() * place / 1000])
}

/// The most memory that this process has held, in KiB.
fn memory_peak_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
