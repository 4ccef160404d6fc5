//! Our agent in a helper, over the attached streams.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use volsnap::agent::calls;
use volsnap::agent::client::{AgentClient, AgentError, ArchiveSink};
use volsnap::agent::tree::Stability;
use volsnap::archive::Codec;
use volsnap::engine::helper::{Access, helper_container};
use volsnap::model::event::Silent;
use volsnap::model::location::MountSource;

use crate::bench::Bench;

/// Starts a helper beside a volume with one file.
async fn helper(bench: &Bench, access: Access) -> (String, AgentClient) {
    let volume = bench.volume("data").await;
    bench.write(&volume, "file", "content").await;
    let image = bench.helper_image().await;
    let source = MountSource::Volume(volume);
    let spec = helper_container(&bench.name("helper"), &image, "run", &source, access, None, None);
    let id = bench.docker.create_container(&spec).await.unwrap();
    let agent = AgentClient::start(&*bench.docker, &id, None).await.unwrap();
    (id, agent)
}

pub(crate) async fn a_helper_sees_its_source_and_ends_with_its_client(bench: &Bench) {
    let (id, mut agent) = helper(bench, Access::Replace).await;
    let survey = agent.call(calls::Survey::default()).await.unwrap();
    assert_eq!((survey.entries, survey.files, survey.bytes), (1, 1, 7));
    let inspect = calls::Inspect {
        engine: "postgresql".to_owned(),
        side: calls::Side::Source,
        tree: PathBuf::new(),
        data_directory: PathBuf::new(),
        mounted_at: None,
    };
    let error = agent.call(inspect).await.unwrap_err();
    assert!(matches!(error, AgentError::Failed(_)), "{error}");
    // A failed request is answered, and the session goes on.
    let error = agent.call(calls::StageKeep {}).await.unwrap_err();
    assert!(matches!(&error, AgentError::Failed(said) if said == "no pass was made"), "{error}");
    assert!(!agent.call(calls::Room {}).await.unwrap().is_empty);
    assert!(bench.docker.container(&id).await.unwrap().unwrap().state.running);
    drop(agent);
    bench.await_gone(&id).await;
}

pub(crate) async fn a_helper_that_is_removed_ends_its_output(bench: &Bench) {
    let (id, mut agent) = helper(bench, Access::Read).await;
    bench.docker.remove_container(&id).await.unwrap();
    assert_eq!(bench.docker.container(&id).await.unwrap(), None);
    let ended =
        tokio::time::timeout(Duration::from_secs(20), agent.call(calls::Survey::default())).await.unwrap();
    assert!(matches!(ended, Err(AgentError::Ended { .. })), "{ended:?}");
}

/// Counts what comes.
#[derive(Default)]
struct Count {
    archive: usize,
    list: usize,
}

#[async_trait::async_trait]
impl ArchiveSink for Count {
    async fn archive(&mut self, bytes: Bytes) -> volsnap::Result<()> {
        self.archive += bytes.len();
        Ok(())
    }

    async fn file_list(&mut self, bytes: Bytes) -> volsnap::Result<()> {
        self.list += bytes.len();
        Ok(())
    }
}

pub(crate) async fn an_archive_comes_over_the_attached_streams(bench: &Bench) {
    let (_, mut agent) = helper(bench, Access::Read).await;
    let call = calls::Archive {
        side: calls::Side::Source,
        tree: PathBuf::new(),
        codec: Codec::default(),
        exclude: Vec::new(),
        last: Vec::new(),
        stability: Stability::Held,
    };
    let mut count = Count::default();
    let archived = agent.archive(call, &mut count, &Silent).await.unwrap();
    assert_eq!((archived.files, archived.raw_bytes), (1, 7));
    assert!(count.archive > 0 && count.list > 0);
}
