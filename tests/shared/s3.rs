//! A server that speaks as S3 does, and a proxy before it that does to requests what networks and servers do.
//!
//! `scripts/test` installs the server (moto) and says where; each test starts one of its own.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The bucket that the server has.
pub(crate) const BUCKET: &str = "volsnap-test";
/// A key that the server takes, as it takes any.
pub(crate) const KEYS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "AKIAVOLSNAPTEST"), ("AWS_SECRET_ACCESS_KEY", "s3cr3t-of-the-test")];

const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// A server of a test's own; it ends with this.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts a server with an empty bucket; `None`, and says so, where none is installed.
    pub(crate) fn start() -> Option<Self> {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/volsnap-test/s3-1"));
        let place = std::env::var_os("VOLSNAP_TEST_S3").map(PathBuf::from).or_else(home)?;
        let program = place.join("bin/moto_server");
        if !program.exists() {
            let place = program.display();
            let said = writeln!(
                io::stderr(),
                "checks nothing: there is no S3 server at {place}; scripts/test installs one"
            );
            said.unwrap();
            return None;
        }
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .env("MOTO_S3_ALLOW_CROSSACCOUNT_ACCESS", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, address };
        let deadline = Instant::now() + STARTS_WITHIN;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the S3 server does not start");
            thread::sleep(Duration::from_millis(50));
        }
        assert!(server.ask("PUT", &format!("/{BUCKET}")).starts_with("HTTP/1.1 200"));
        Some(server)
    }

    /// Returns the URL of a folder in the bucket, at the server or at a proxy before it.
    pub(crate) fn url(at: SocketAddr, folder: &str) -> String {
        format!("s3://{BUCKET}/{folder}?endpoint=http://{at}&region=us-east-1")
    }

    /// Sends a request as nobody, and returns the answer.
    pub(crate) fn ask(&self, method: &str, target: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Returns how many uploads were begun and neither finished nor given up.
    pub(crate) fn unfinished_uploads(&self) -> usize {
        self.ask("GET", &format!("/{BUCKET}?uploads=")).matches("<UploadId>").count()
    }

    /// Returns the keys of all objects but those that say that a run is there: those of a killed run stay for a day.
    pub(crate) fn objects(&self) -> Vec<String> {
        let answer = self.ask("GET", &format!("/{BUCKET}?list-type=2"));
        let keys = answer.split("<Key>").skip(1).map(|rest| rest.split("</Key>").next().unwrap().to_owned());
        keys.filter(|key| !key.contains("/running/")).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is not passed on; the answer has this status and this word.
    Answer(u16, &'static str),
    /// It is passed on and done; the answer has this status all the same.
    DoneBut(u16),
    /// The connection ends before any answer; the request is not passed on.
    HangUp,
    /// The connection ends after so many bytes of the answer's body.
    CutAfter(usize),
    /// The answer comes after this time.
    Slow(Duration),
    /// Its conditions are not passed on, as by a server that does not know them.
    WithoutConditions,
}

/// Which requests meet a fault.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// The method.
    pub(crate) method: &'static str,
    /// A part of the target.
    pub(crate) target: &'static str,
    /// How many of them pass first.
    pub(crate) skip: usize,
    /// How many of them meet it.
    pub(crate) times: usize,
    /// What they meet.
    pub(crate) fault: Fault,
}

/// A proxy before a server.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    server: SocketAddr,
    rules: Mutex<Vec<Rule>>,
    /// The heads of the requests so far, and how many have met a fault.
    seen: Mutex<(Vec<String>, usize)>,
}

impl Proxy {
    pub(crate) fn start(server: &Server, rules: Vec<Rule>) -> Self {
        Self::before(server.address, rules)
    }

    /// Starts one before any server.
    pub(crate) fn before(server: SocketAddr, rules: Vec<Rule>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { server, rules: Mutex::new(rules), seen: Mutex::default() });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || state.serve(client));
            }
        });
        Self { address, state }
    }

    /// Sets the rules anew.
    pub(crate) fn set(&self, rules: Vec<Rule>) {
        *self.state.rules.lock().unwrap() = rules;
        *self.state.seen.lock().unwrap() = (Vec::new(), 0);
    }

    /// Returns how many requests have met a fault.
    pub(crate) fn met(&self) -> usize {
        self.state.seen.lock().unwrap().1
    }

    /// Returns the heads of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.seen.lock().unwrap().0.clone()
    }
}

impl State {
    /// Answers one request; every answer is the last of its connection.
    fn serve(&self, mut client: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(client.try_clone().ok()?);
        let mut first = String::new();
        reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
        let mut headers = Vec::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            if line == "\r\n" {
                break;
            }
            let name = line.to_ascii_lowercase();
            if let Some(value) = name.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if !name.starts_with("connection:") {
                headers.push(line);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let fault = self.fault(&first, &headers.concat());
        match fault {
            Some(Fault::HangUp) => return client.shutdown(Shutdown::Both).ok(),
            Some(Fault::Answer(status, code)) => return client.write_all(&answer(status, code, &first)).ok(),
            Some(Fault::Slow(time)) => thread::sleep(time),
            Some(Fault::WithoutConditions) => {
                headers.retain(|line| !line.to_ascii_lowercase().starts_with("if-"));
            }
            _ => {}
        }
        let passed = self.pass_on(&first, &headers, &body).ok()?;
        match fault {
            Some(Fault::DoneBut(status)) => client.write_all(&answer(status, "InternalError", &first)).ok(),
            Some(Fault::CutAfter(bytes)) => {
                let head = passed.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
                client.write_all(&passed[..passed.len().min(head + bytes)]).ok()
            }
            _ => client.write_all(&passed).ok(),
        }
    }

    fn fault(&self, first: &str, headers: &str) -> Option<Fault> {
        let (method, rest) = first.split_once(' ')?;
        let target = rest.split(' ').next()?;
        let mut seen = self.seen.lock().unwrap();
        seen.0.push(format!("{first}{headers}"));
        let mut rules = self.rules.lock().unwrap();
        let matches =
            |rule: &&mut Rule| rule.method == method && target.contains(rule.target) && rule.times > 0;
        let rule = rules.iter_mut().find(matches)?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times -= 1;
        seen.1 += 1;
        Some(rule.fault.clone())
    }

    fn pass_on(&self, first: &str, headers: &[String], body: &[u8]) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(self.server)?;
        server.write_all(first.as_bytes())?;
        for line in headers {
            server.write_all(line.as_bytes())?;
        }
        server.write_all(b"Connection: close\r\n\r\n")?;
        server.write_all(body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

fn answer(status: u16, code: &str, first: &str) -> Vec<u8> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>made up</Message></Error>");
    let body = if first.starts_with("HEAD") { "" } else { &body };
    format!(
        "HTTP/1.1 {status} Made\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
