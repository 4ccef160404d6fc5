//! A machine that is reached by SSH: an sshd of a test's own on this one, with keys of its own.
//!
//! `scripts/test` installs what is needed.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const STARTS_WITHIN: Duration = Duration::from_secs(30);
const PROGRAM: &str = "/usr/sbin/sshd";

/// A server of a test's own; it ends with this.
pub(crate) struct Sshd {
    child: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Sshd {
    /// Starts a server whose SFTP has these options; `None`, and says so, where none is installed.
    pub(crate) fn start(options: &str) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            let said =
                writeln!(io::stderr(), "checks nothing: there is no {PROGRAM}; scripts/test installs one");
            said.unwrap();
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name).display().to_string();
        for name in ["host", "user", "stranger"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f", &file(name)])
                .status();
            assert!(made.unwrap().success());
        }
        // As root it wants a directory that the system makes at boot.
        let _ = std::fs::create_dir("/run/sshd");
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let text = format!(
            "ListenAddress 127.0.0.1\nPort {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n\
             Subsystem sftp internal-sftp {options}\n",
            address.port(),
            file("host"),
            file("user.pub"),
        );
        std::fs::write(file("sshd_config"), text).unwrap();
        let child = Command::new(PROGRAM)
            .args(["-D", "-e", "-f", &file("sshd_config")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, address, directory };
        let known = std::fs::read_to_string(server.file("host.pub")).unwrap();
        std::fs::write(server.file("known_hosts"), format!("[127.0.0.1]:{} {known}", address.port()))
            .unwrap();
        server.write_config("config", "user", "known_hosts");
        let deadline = Instant::now() + STARTS_WITHIN;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "sshd does not start");
            thread::sleep(Duration::from_millis(20));
        }
        std::fs::create_dir(server.root()).unwrap();
        Some(server)
    }

    /// Writes settings of ssh with this key and these known hosts, and returns their file.
    pub(crate) fn write_config(&self, name: &str, key: &str, known: &str) -> PathBuf {
        let text = format!(
            "Host *\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n  \
             StrictHostKeyChecking yes\n  ControlMaster no\n",
            self.file(key).display(),
            self.file(known).display(),
        );
        std::fs::write(self.file(name), text).unwrap();
        self.file(name)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the settings of ssh that come in.
    pub(crate) fn config(&self) -> PathBuf {
        self.file("config")
    }

    /// Returns the directory that the tests use.
    pub(crate) fn root(&self) -> PathBuf {
        self.file("root")
    }

    /// Returns the URL of a folder in it.
    pub(crate) fn url(&self, folder: &str) -> String {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        format!("sftp://{user}@127.0.0.1:{}{}/{folder}", self.address.port(), self.root().display())
    }

    /// Ends every connection, as a network does.
    pub(crate) fn cut(&self) {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        for child in children.split_whitespace() {
            let child = nix::unistd::Pid::from_raw(child.parse().unwrap());
            let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.cut();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
