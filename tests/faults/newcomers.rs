//! While a database is held, somebody starts another on its volume, as a watchdog without labels would. Ours is not
//! started beside it: one server runs, and the run says which.

use volsnap::ErrorKind;
use volsnap::model::facts::FactsLevel;
use volsnap::ops::execute;
use volsnap::ops::restart::{RestartOptions, restart};
use volsnap::ops::snapshot::snapshot;

use crate::database::{Postgres, image};
use crate::stage::Stage;
use crate::world::{LABEL, docker};

/// Has another server started on the database's volume once that is stopped; returns what it is called.
fn replace(stage: &Stage, postgres: &Postgres) -> String {
    let (name, mount) =
        (postgres.world.name("next"), format!("{}:/var/lib/postgresql/data", postgres.volume));
    let (called, label) = (name.clone(), format!("{LABEL}={}", std::process::id()));
    stage.at("prove", move || {
        let fixed = ["run", "-d", "--network", "none", "--name", &called, "--label", &label, "-v", &mount];
        docker(&[&fixed[..], &["-e", "POSTGRES_PASSWORD=x", &image()]].concat());
    });
    name
}

fn is_running(container: &str) -> bool {
    docker(&["inspect", "--format", "{{.State.Running}}", container]) == "true"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_somebody_has_replaced_meanwhile_is_not_started_beside_the_other() {
    for by_restart in [false, true] {
        let (postgres, stage) = (Postgres::start().await, Stage::new().await.with_helper_image().await);
        let next = replace(&stage, &postgres);
        let error = if by_restart {
            let options = RestartOptions {
                target: postgres.target().parse().unwrap(),
                repository: stage.volsnap.repository(),
                level: FactsLevel::None,
                snapshot: None,
                recreate: false,
                checks: None,
                stop_timeout: None,
                kills: Vec::new(),
                helper_image: None,
            };
            restart(&stage.host, &options, execute).await.unwrap_err()
        } else {
            snapshot(&stage.host, &stage.options(&postgres), execute).await.unwrap_err()
        };
        let said = format!("{}; {}", error.chain(), error.state_text().unwrap_or_default());
        assert_eq!(error.kind(), ErrorKind::Failed, "{said}");
        let not_started = format!(
            "container {} is not started, since container {next} has begun to run",
            postgres.container
        );
        assert!(said.contains(&not_started), "{said}");
        assert!(!is_running(&postgres.container) && is_running(&next), "one server alone: {said}");
        stage.volsnap.assert_no_leftovers();
    }
}
