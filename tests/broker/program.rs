//! The program as a user starts it: a config file, a process, its signals and its ending.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::world::{World, lines, wait_until};

/// Where and how a process runs; one per state directory.
#[derive(Clone)]
pub struct Site {
    pub config: PathBuf,
    pub dir: PathBuf,
    /// Of the process's files.
    pub name: String,
}

pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl World {
    /// A config file and a state directory; `more` is TOML that is added.
    pub fn site(&self, name: &str, more: &str) -> Site {
        let state = self.path(&format!("state-{name}"));
        let text = format!(
            "[state]\ndir = \"{}\"\ncheckpoint_interval = \"1s\"\nstandby_tasks = 1\n[serve]\naddress = \"\"\n[registry]\nurl = \"{}\"\ntimeout = \"20s\"\n\
             [log]\nlevel = \"info\"\n{more}\n{}",
            state.display(),
            self.registry_url,
            if more.contains("[kafka]") { String::new() } else { format!("[kafka]\nbrokers = \"{}\"\n", self.broker.brokers) },
        );
        let config = self.file(&format!("{name}.toml"), &text);
        Site { config, dir: self.dir.path().to_path_buf(), name: name.to_string() }
    }

    pub fn pipeline(&self, sql: &str) -> PathBuf {
        self.file("pipeline.sql", sql)
    }
}

impl Site {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command
            .arg("--config")
            .arg(&self.config)
            .args(arguments)
            .current_dir(&self.dir)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end; killed, and a failure of the test, after `limit`.
    #[track_caller]
    pub fn run_within(&self, limit: Duration, arguments: &[&str]) -> Output {
        let (out, err) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let began = Instant::now();
        let mut child = self
            .command(arguments)
            .stdout(File::create(out.path()).unwrap())
            .stderr(File::create(err.path()).unwrap())
            .spawn()
            .unwrap();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > limit {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("tidemill {arguments:?} did not end within {limit:?}:\n{}{}", lines(out.path()), lines(err.path()));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Output { code: code(status), stdout: lines(out.path()), stderr: lines(err.path()), took: began.elapsed() }
    }

    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_within(Duration::from_secs(60), arguments)
    }

    /// Runs to the end, which must be a good one.
    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert_eq!(output.code, 0, "tidemill {arguments:?} ended with {}:\n{}{}", output.code, output.stdout, output.stderr);
        output
    }

    /// Starts it in the background; its stderr is added to one file per site.
    pub fn start(&self, arguments: &[&str]) -> Process {
        let path = self.dir.join(format!("{}.log", self.name));
        let stderr = File::options().create(true).append(true).open(&path).unwrap();
        let begin = stderr.metadata().unwrap().len() as usize;
        let child = self.command(arguments).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        Process { child, path, begin }
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or(-1)
}

/// A process in the background; killed when it is dropped.
pub struct Process {
    child: Child,
    path: PathBuf,
    begin: usize,
}

impl Process {
    /// What this process wrote to stderr.
    pub fn said(&self) -> String {
        let all = std::fs::read(&self.path).unwrap_or_default();
        String::from_utf8_lossy(all.get(self.begin..).unwrap_or_default()).into_owned()
    }

    /// Waits until it wrote a text; fails early if it ended.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let path = self.path.clone();
        wait_until(&format!("it says \"{text}\", see {}", path.display()), Duration::from_secs(60), || {
            let said = self.said();
            assert!(self.is_running() || said.contains(text), "it ended before it said \"{text}\":\n{said}");
            said.contains(text)
        });
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "kill -{name}");
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The exit code of one that ended by itself.
    pub fn code(mut self) -> i32 {
        code(self.child.wait().unwrap())
    }

    /// SIGTERM, and the exit code.
    #[track_caller]
    pub fn terminate(mut self) -> i32 {
        self.signal("TERM");
        wait_until("it ends after SIGTERM", Duration::from_secs(30), || !self.is_running());
        code(self.child.wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = self.said();
            let tail: Vec<&str> = said.lines().rev().take(lines_shown()).collect();
            eprintln!("--- the last lines of {}:", self.path.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// How much of a failed process's log is shown: `TEST_LOG_LINES`.
fn lines_shown() -> usize {
    std::env::var("TEST_LOG_LINES").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}
