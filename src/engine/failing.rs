//! An engine that records every call and fails on demand, for tests of whatever uses the engine.
//!
//! It is a real [`Docker`] around another one: a call that does not fail has its effect. A test lets a procedure run
//! once and reads [`calls`](FailingDocker::calls). Then it runs the procedure again for each call with
//! [`fail_at`](FailingDocker::fail_at), in both [modes](Mode), and checks the world afterwards.
//!
//! ```
//! # use std::sync::Arc;
//! # use volsnap::engine::{Docker, DockerErrorKind, failing::{FailingDocker, Mode}};
//! # async fn example(engine: Arc<dyn Docker>) {
//! let docker = FailingDocker::new(engine);
//! docker.fail_at(1, Mode::After);
//! let error = docker.start("db").await.unwrap_err();
//! assert_eq!(error.kind, DockerErrorKind::Unreachable); // and the container runs
//! assert_eq!(docker.calls()[0].to_string(), "1 start db");
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, pending};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::NewMount;
use super::failing_agent::listen_in;
use super::failing_compose::FailingCompose;
use super::{Attached, ContainerSpec, Docker, DockerError, DockerErrorKind, Grace, RawInspect, Result};
use crate::compose::runner::Runner;
use crate::model::container::{Container, EngineInfo, ExecOutput, Image, Process, Volume};

/// One call made to a [`FailingDocker`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its number, from 1.
    pub number: usize,
    /// The method's name.
    pub name: &'static str,
    /// The object of the call; "" for the engine itself.
    pub object: String,
    /// What runs in a container, in a word; "" for other calls.
    pub detail: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.number, self.name, self.object)
    }
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The engine is never reached: the call has no effect.
    Before,
    /// The effect happens, but the answer is lost.
    After,
    /// The engine is never reached and no answer ever comes, whatever limit the call has: it ends when the caller
    /// drops it.
    Hang,
    /// The caller panics.
    Panic,
    /// The process is killed before the call: neither this one nor any later one has an effect, or an answer.
    Kill,
    /// The same, after the call has had its effect.
    KillAfter,
}

/// Hears of a call before it is made.
type Listener = Box<dyn Fn(&Call) + Send>;

#[derive(Default)]
struct Record {
    calls: Vec<Call>,
    failing: Option<(Failing, Mode)>,
    listener: Option<Listener>,
}

/// Which calls fail.
#[derive(Debug, Clone)]
enum Failing {
    /// Those with these numbers.
    Numbers(Range<usize>),
    /// This one (from 1) of a method's calls.
    Nth(&'static str, usize),
}

impl Record {
    /// Returns how the last call should fail, if it should.
    fn mode(&self) -> Option<Mode> {
        let call = self.calls.last()?;
        let (failing, mode) = self.failing.as_ref()?;
        let fails = match failing {
            Failing::Numbers(numbers) => numbers.contains(&call.number),
            Failing::Nth(name, nth) => {
                call.name == *name && self.calls.iter().filter(|other| other.name == *name).count() == *nth
            }
        };
        fails.then_some(*mode)
    }
}

/// The records, shared with the streams of agents and with Compose.
pub(super) struct Shared {
    record: Mutex<Record>,
    /// Whether the process was killed.
    dead: watch::Sender<bool>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    /// Records a call; returns how it should fail, if it should.
    pub(super) fn note(&self, name: &'static str, object: &str, detail: &str) -> Option<Mode> {
        let mut record = self.record();
        let number = record.calls.len() + 1;
        let call = Call { number, name, object: object.to_owned(), detail: detail.to_owned() };
        if let Some(listener) = &record.listener {
            listener(&call);
        }
        record.calls.push(call);
        record.mode()
    }

    pub(super) fn kill(&self) {
        self.dead.send_replace(true);
    }

    pub(super) fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        // A test that panicked elsewhere must not hide what was recorded.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`Docker`] that records every call and fails on demand.
pub struct FailingDocker {
    inner: Arc<dyn Docker>,
    shared: Arc<Shared>,
    listens_in: bool,
}

impl fmt::Debug for FailingDocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailingDocker").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl FailingDocker {
    /// Returns one around `inner` that records and does not fail yet.
    pub fn new(inner: Arc<dyn Docker>) -> Self {
        let shared = Shared { record: Mutex::default(), dead: watch::Sender::new(false) };
        Self { inner, shared: Arc::new(shared), listens_in: false }
    }

    /// Also counts what is said to an agent as calls.
    #[must_use]
    pub fn with_agents(self) -> Self {
        Self { listens_in: true, ..self }
    }

    /// Tells `listener` of every call before it is made.
    pub fn on_call(&self, listener: impl Fn(&Call) + Send + 'static) {
        self.record().listener = Some(Box::new(listener));
    }

    /// Returns Compose; its commands also count as calls.
    #[must_use]
    pub fn compose(&self, inner: Arc<dyn Runner>) -> Arc<dyn Runner> {
        Arc::new(FailingCompose { inner, shared: self.shared.clone() })
    }

    /// Returns once the process is killed: whoever drives it must then drop it.
    pub async fn killed(&self) {
        // The sender lives as long as this.
        let _ = self.shared.dead.subscribe().wait_for(|dead| *dead).await;
    }

    /// Makes the `number`th call (from 1) fail, and no other.
    pub fn fail_at(&self, number: usize, mode: Mode) {
        self.fail_during(number..number + 1, mode);
    }

    /// Makes all calls with these numbers fail, as when the engine is away for a while; `n..usize::MAX` for an engine
    /// that does not come back.
    pub fn fail_during(&self, numbers: Range<usize>, mode: Mode) {
        self.record().failing = Some((Failing::Numbers(numbers), mode));
    }

    /// Makes the `nth` call (from 1) of a method fail, and no other: if a procedure asks again and again until
    /// something is so, the numbers of the later calls vary.
    pub fn fail_nth(&self, name: &'static str, nth: usize, mode: Mode) {
        self.record().failing = Some((Failing::Nth(name, nth), mode));
    }

    /// Returns the calls made so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.record().calls.clone()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.shared.record()
    }

    async fn call<T>(
        &self,
        name: &'static str,
        object: &str,
        effect: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.call_in_detail(name, object, "", effect).await
    }

    async fn call_in_detail<T>(
        &self,
        name: &'static str,
        object: &str,
        detail: &str,
        effect: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        if self.shared.is_dead() {
            pending::<()>().await;
        }
        match self.shared.note(name, object, detail) {
            None => return effect.await,
            Some(Mode::Before) => {}
            Some(Mode::After) => drop(effect.await),
            Some(Mode::Hang) => pending().await,
            Some(Mode::Panic) => panic!("injected panic at {name}"),
            Some(mode @ (Mode::Kill | Mode::KillAfter)) => {
                if mode == Mode::KillAfter {
                    drop(effect.await);
                }
                self.shared.kill();
                pending::<()>().await;
            }
        }
        Err(DockerError {
            kind: DockerErrorKind::Unreachable,
            doing: format!("{name} {object}").trim_end().to_owned(),
            message: "injected failure".to_owned(),
        })
    }
}

#[async_trait]
impl Docker for FailingDocker {
    async fn engine(&self) -> Result<EngineInfo> {
        self.call("engine", "", self.inner.engine()).await
    }

    async fn containers(&self) -> Result<Vec<Container>> {
        self.call("containers", "", self.inner.containers()).await
    }

    async fn container(&self, id: &str) -> Result<Option<Container>> {
        self.call("container", id, self.inner.container(id)).await
    }

    async fn volumes(&self) -> Result<Vec<Volume>> {
        self.call("volumes", "", self.inner.volumes()).await
    }

    async fn volume(&self, name: &str) -> Result<Option<Volume>> {
        self.call("volume", name, self.inner.volume(name)).await
    }

    async fn create_volume(&self, name: &str, labels: &BTreeMap<String, String>) -> Result<()> {
        self.call("create_volume", name, self.inner.create_volume(name, labels)).await
    }

    async fn remove_volume(&self, name: &str) -> Result<()> {
        self.call("remove_volume", name, self.inner.remove_volume(name)).await
    }

    async fn start(&self, id: &str) -> Result<()> {
        self.call("start", id, self.inner.start(id)).await
    }

    async fn stop(&self, id: &str, signal: Option<&str>, grace: Grace, wait: Duration) -> Result<()> {
        self.call("stop", id, self.inner.stop(id, signal, grace, wait)).await
    }

    async fn pause(&self, id: &str) -> Result<()> {
        self.call("pause", id, self.inner.pause(id)).await
    }

    async fn unpause(&self, id: &str) -> Result<()> {
        self.call("unpause", id, self.inner.unpause(id)).await
    }

    async fn lower_priority(&self, id: &str) -> Result<()> {
        self.call("lower_priority", id, self.inner.lower_priority(id)).await
    }

    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Result<ExecOutput> {
        // The scripts that ask a database have their action after this name.
        let action = command.iter().position(|word| word == "volsnap").and_then(|at| command.get(at + 1));
        let detail = action.or(command.first()).map_or("", String::as_str);
        self.call_in_detail("exec", id, detail, self.inner.exec(id, command, limit)).await
    }

    async fn processes(&self, id: &str) -> Result<Vec<Process>> {
        self.call("processes", id, self.inner.processes(id)).await
    }

    async fn logs(&self, id: &str, lines: u32) -> Result<String> {
        self.call("logs", id, self.inner.logs(id, lines)).await
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        self.call("image", reference, self.inner.image(reference)).await
    }

    async fn images(&self, label: &str) -> Result<Vec<Image>> {
        self.call("images", label, self.inner.images(label)).await
    }

    async fn remove_image(&self, id: &str) -> Result<()> {
        self.call("remove_image", id, self.inner.remove_image(id)).await
    }

    async fn import_image(&self, tag: &str, labels: &BTreeMap<String, String>, tar: Bytes) -> Result<()> {
        self.call("import_image", tag, self.inner.import_image(tag, labels, tar)).await
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<String> {
        self.call("create_container", &spec.name, self.inner.create_container(spec)).await
    }

    async fn inspect_raw(&self, id: &str) -> Result<RawInspect> {
        self.call("inspect_raw", id, self.inner.inspect_raw(id)).await
    }

    async fn clone_container(
        &self,
        model: &RawInspect,
        name: &str,
        mount: Option<NewMount<'_>>,
    ) -> Result<String> {
        self.call("clone_container", name, self.inner.clone_container(model, name, mount)).await
    }

    async fn rename_container(&self, id: &str, name: &str) -> Result<()> {
        self.call("rename_container", id, self.inner.rename_container(id, name)).await
    }

    async fn remove_stopped_container(&self, id: &str) -> Result<()> {
        self.call("remove_stopped_container", id, self.inner.remove_stopped_container(id)).await
    }

    async fn attach(&self, id: &str) -> Result<Attached> {
        let attached = self.call("attach", id, self.inner.attach(id)).await?;
        Ok(if self.listens_in { listen_in(&self.shared, attached) } else { attached })
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.call("remove_container", id, self.inner.remove_container(id)).await
    }
}
