//! A small HTTP server in the test: it answers as it is told to, and remembers what it was asked.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `GET /subjects`.
    pub line: String,
    /// `name: value`, names in lower case.
    pub headers: Vec<String>,
    pub body: String,
}

impl Asked {
    pub fn has_header(&self, header: &str) -> bool {
        self.headers.iter().any(|known| known == header)
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: String,
    pub after: Duration,
}

impl Reply {
    pub fn ok(body: impl ToString) -> Reply {
        Reply { status: 200, body: body.to_string(), after: Duration::ZERO }
    }

    /// As a registry refuses: its code, and a text that must not matter.
    pub fn error(status: u16, code: i64) -> Reply {
        let body = serde_json::json!({ "error_code": code, "message": "a text" });
        Reply { status, body: body.to_string(), after: Duration::ZERO }
    }

    pub fn status(status: u16) -> Reply {
        Reply { status, body: "<html>a page</html>".into(), after: Duration::ZERO }
    }
}

pub struct Server {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// `answer` is called for each request, one at a time.
    pub fn start(mut answer: impl FnMut(&Asked) -> Reply + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let log = asked.clone();
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that went away is no matter of the server.
                let _ = serve(stream, &log, &mut answer);
            }
        });
        Server { url, asked }
    }

    /// A port where nobody listens.
    pub fn nobody() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        format!("http://{}", listener.local_addr().expect("it is bound"))
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<Asked>>, answer: &mut impl FnMut(&Asked) -> Reply) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_string()),
        }
    }
    let Some((first, headers)) = lines.split_first() else { return Ok(()) };
    let headers: Vec<String> = headers
        .iter()
        .filter_map(|header| header.split_once(": "))
        .map(|(name, value)| format!("{}: {value}", name.to_lowercase()))
        .collect();
    let length = headers.iter().find_map(|header| header.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let asked = Asked {
        line: first.rsplit_once(' ').map_or(first.as_str(), |(line, _)| line).to_string(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    log.lock().unwrap().push(asked.clone());
    let Reply { status, body, after } = answer(&asked);
    std::thread::sleep(after);
    write!(
        stream,
        "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
