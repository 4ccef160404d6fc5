//! What happens between two looks at the data, at the worst moment.

use volsnap::model::facts::FactsLevel;
use volsnap::model::facts::difference::{DifferenceKind, Severity};
use volsnap::ops::execute;
use volsnap::ops::restart::{RestartOptions, RestartReport, restart};

use crate::database::Postgres;
use crate::stage::Stage;
use crate::world::docker;

impl Stage {
    /// Restarts, with something done just before the database is stopped.
    async fn restart(
        &self,
        postgres: &Postgres,
        before_stop: impl FnOnce() + Send + 'static,
    ) -> RestartReport {
        self.at("stop-container", before_stop);
        let options = RestartOptions {
            target: postgres.target().parse().unwrap(),
            repository: self.volsnap.repository(),
            level: FactsLevel::Quick,
            snapshot: None,
            recreate: false,
            checks: None,
            stop_timeout: None,
            kills: Vec::new(),
            helper_image: None,
        };
        let report = restart(&self.host, &options, execute).await.unwrap().unwrap();
        postgres.assert_no_helper();
        self.volsnap.assert_no_leftovers();
        report
    }
}

fn severity_of(report: &RestartReport, kind: DifferenceKind) -> Severity {
    let found: Vec<_> = report.differences.iter().filter(|difference| difference.kind == kind).collect();
    assert_eq!(found.len(), 1, "{kind:?} in {:?}", report.differences);
    assert!(found[0].severity != Severity::Damage || found[0].next.is_some(), "{found:?}");
    found[0].severity
}

/// Runs a query in the database's container.
fn query(container: &str, sql: &str) {
    docker(&["exec", container, "psql", "-XAtq", "-U", "user", "memory_db", "-c", sql]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_between_two_looks_is_told_for_what_it_is() {
    let postgres = Postgres::start().await;
    postgres.query("create unlogged table fleeting as select generate_series(1, 9) as n");
    let does = |sql: &'static str| {
        let container = postgres.container.clone();
        move || query(&container, sql)
    };

    let report = Stage::new().await.restart(&postgres, || ()).await;
    assert!(report.ok && report.strict && report.differences.is_empty(), "{report:?}");

    let report = Stage::new().await.restart(&postgres, does("insert into fleeting values (10)")).await;
    assert!(report.ok && !report.strict, "{report:?}");
    assert_eq!(severity_of(&report, DifferenceKind::MoreRows), Severity::Explained);

    let report = Stage::new().await.restart(&postgres, does("alter table kept rename to other")).await;
    assert!(!report.ok && report.clean == Some(true), "{report:?}");
    assert_eq!(severity_of(&report, DifferenceKind::MissingTable), Severity::Damage);
    postgres.query("alter table other rename to kept");

    let container = postgres.container.clone();
    let kill = move || _ = docker(&["kill", &container]);
    let report = Stage::new().await.restart(&postgres, kill).await;
    assert!(!report.ok && report.clean == Some(false), "{report:?}");
    assert_eq!(severity_of(&report, DifferenceKind::CrashRecovery), Severity::Damage);
    // That is what a crash does to a table that is not logged.
    assert_eq!(severity_of(&report, DifferenceKind::FewerRows), Severity::Explained);
    postgres.assert_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_facts_of_a_snapshot_are_exact_unless_somebody_wrote_after_them() {
    let postgres = Postgres::start().await;
    let stage = Stage::new().await;
    let quiet = stage.snapshot(&postgres).await.unwrap();
    let facts = quiet.manifest.facts.as_ref().unwrap();
    let next = facts.seen.moment.unwrap();
    assert!(facts.exact && next.settled, "{next:?}");

    let container = postgres.container.clone();
    // One that writes nothing anybody would count takes a number all the same.
    stage.at("stop-container", move || query(&container, "select txid_current()"));
    let disturbed = stage.snapshot(&postgres).await.unwrap();
    let facts = disturbed.manifest.facts.as_ref().unwrap();
    assert!(!facts.exact, "{:?}", facts.seen.moment);
    assert_eq!(facts.seen.moment.unwrap().next_transaction, next.next_transaction);
}
