//! A WebDAV server of a test's own: rclone's, in a directory of its own.
//!
//! `scripts/test` installs what is needed.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Who may come in.
pub(crate) const LOGIN: [(&str, &str); 2] =
    [("WEBDAV_USERNAME", "volsnap"), ("WEBDAV_PASSWORD", "s3cr3t-of-the-test")];

const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A server of a test's own; it ends with this.
pub(crate) struct WebDav {
    child: Child,
    pub(crate) address: SocketAddr,
    directory: TempDir,
}

impl WebDav {
    /// Starts a server; `None`, and says so, where none is installed.
    pub(crate) fn start() -> Option<Self> {
        if !Command::new("rclone").arg("version").output().is_ok_and(|output| output.status.success()) {
            let said = writeln!(io::stderr(), "checks nothing: there is no rclone; scripts/test installs it");
            said.unwrap();
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("root")).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("rclone")
            .args(["serve", "webdav", "--addr", &address.to_string()])
            .args(["--user", LOGIN[0].1, "--pass", LOGIN[1].1])
            .args(["--config", "/dev/null", "--dir-cache-time", "0"])
            .arg(directory.path().join("root"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, address, directory };
        let deadline = Instant::now() + STARTS_WITHIN;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "rclone does not serve");
            thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    /// Returns the directory that it serves.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Returns the URL of a folder, at the server or at a proxy before it.
    pub(crate) fn url(at: SocketAddr, folder: &str) -> String {
        format!("webdav://{at}/{folder}")
    }
}

impl Drop for WebDav {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
