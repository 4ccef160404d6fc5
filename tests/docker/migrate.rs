//! A service moves from its volume into a directory and back: with every row, with its file changed in the one line,
//! and with everything as it was where that is not to be.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::database::{Postgres, Volsnap, Watched, image, image_70};
use crate::program::Ran;
use crate::project::Project;
use crate::world::{LABEL, World, docker};

const MOUNTED_AT: &str = "/var/lib/postgresql/data";

/// The fixture's project with rows in its database, and a place for these.
struct Scene {
    project: Project,
    postgres: Postgres,
    volsnap: Volsnap,
    /// What its compose file said at the begin.
    text: String,
    /// Outlives the containers, which write into it.
    data: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self::with(str::to_owned).await
    }

    /// With the compose file edited; the database alone is up.
    async fn with(edit: impl FnOnce(&str) -> String) -> Self {
        let (world, volsnap) = (World::new().await, Volsnap::new());
        let project = Project::up_with(&world, edit);
        let postgres = Postgres { container: project.service(), volume: project.volume("db_data"), world };
        postgres.await_answer();
        postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
        let text = project.text();
        Self { project, postgres, volsnap, text, data: tempfile::tempdir().unwrap() }
    }

    /// Returns the directory that the data is to go to; it is not there, nor is the one above it.
    fn place(&self) -> PathBuf {
        self.data.path().join("server/postgres")
    }

    fn migrate(&self, options: &[&str]) -> Ran {
        self.migrate_to(&self.place(), options)
    }

    fn migrate_to(&self, place: &Path, options: &[&str]) -> Ran {
        let target = self.project.target();
        self.volsnap.run([&["migrate", &target, place.to_str().unwrap()], options].concat())
    }

    fn back(&self, options: &[&str]) -> Ran {
        self.volsnap.run([&["migrate", &self.project.target(), "--back"], options].concat())
    }

    /// Finds the database's container, which may be another one by now; it has its rows.
    #[track_caller]
    fn look(&mut self) {
        self.postgres.container = self.project.service();
        self.postgres.assert_whole();
    }

    /// Returns what the database's container has its data in.
    fn mounted(&self) -> String {
        let at = format!("{{{{range .Mounts}}}}{{{{if eq .Destination \"{MOUNTED_AT}\"}}}}");
        self.postgres.inspect(&format!("{at}{{{{.Type}}}} {{{{.Source}}}}{{{{end}}}}{{{{end}}}}"))
    }

    fn mountpoint(&self) -> String {
        docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &self.postgres.volume])
    }

    #[track_caller]
    fn assert_on_directory(&mut self) {
        self.look();
        assert_eq!(self.mounted(), format!("bind {}", self.place().display()));
    }

    /// All is as it was at the begin, but for the container.
    #[track_caller]
    fn assert_on_volume(&mut self) {
        self.look();
        assert_eq!(self.mounted(), format!("volume {}", self.mountpoint()));
        assert_eq!(self.project.text(), self.text);
    }

    /// What is done by hand now changes nothing.
    #[track_caller]
    fn assert_settled(&self) {
        let before = self.project.containers();
        self.project.compose(&["up", "-d", "--no-deps", "db"]);
        assert_eq!(self.project.containers(), before, "the container is not what the files say");
    }

    /// A restore goes where the data is now, and never into the volume, whatever is remembered of the migration.
    #[track_caller]
    fn assert_restored_where_it_is(&self) {
        let volume = format!("volume:{}", self.postgres.volume);
        let directory = format!("--to path:{}    # where the data is now", self.place().display());
        let refused = |to: &[&str], more: &[&str]| {
            let ran = self.volsnap.run([&["restore", "latest", "-y"], to].concat());
            let words = ["was migrated into", &directory, "--new-volume NAME", "nothing was stopped"];
            ran.refused(1, &[&words[..], more].concat());
        };
        let records = self.volsnap.state().join("migrations");
        let record = std::fs::read_dir(&records).unwrap().next().unwrap().unwrap().path();
        let forget = format!("rm {}", record.display());
        let follows = || {
            let plan = self.volsnap.run(["restore", "latest", "--dry-run", "--json"]).expect(0).json();
            assert_eq!(plan["host_path"], self.place().to_str().unwrap(), "{plan}");
            assert!(plan["warnings"].to_string().contains("was migrated into"), "{plan}");
            refused(&["--to", &volume], &[&forget]);
        };
        follows();
        // As of an engine that has another identifier at each call.
        let text = std::fs::read_to_string(&record).unwrap();
        let mut other: Value = serde_json::from_str(&text).unwrap();
        other["engine"] = "another".into();
        std::fs::write(&record, other.to_string()).unwrap();
        follows();
        // Somebody looks into what was left over.
        let mount = format!("{}:/old", self.postgres.volume);
        let looks = self.postgres.world.run_service("looks", &["-v", &mount], "sleep 1000");
        follows();
        docker(&["rm", "-fv", &looks]);
        // Nothing is remembered: the service itself says where it is, and nobody knows whether it was a migration.
        std::fs::remove_file(&record).unwrap();
        refused(&[], &[]);
        refused(&["--to", &volume], &[]);
        let new = self.postgres.world.name("new");
        let _ = self.volsnap.run(["restore", "latest", "-y", "--new-volume", &new]).expect(0);
        std::fs::write(&record, text).unwrap();
    }

    /// Neither a journal nor a helper is left.
    #[track_caller]
    fn assert_tidy(&self) {
        self.volsnap.assert_no_leftovers();
        self.postgres.assert_no_helper();
        let helpers = docker(&["ps", "-aq", "--filter", "label=volsnap.run", "--format", "{{.Mounts}}"]);
        assert!(!helpers.contains(self.data.path().to_str().unwrap()), "a helper is left: {helpers}");
    }
}

/// Returns every name below a directory, itself included.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    while next < found.len() {
        if found[next].symlink_metadata().unwrap().is_dir() {
            let entries = std::fs::read_dir(&found[next]).unwrap();
            found.extend(entries.map(|entry| entry.unwrap().path()));
        }
        next += 1;
    }
    found
}

/// Everything there has this owner, and the root is for nobody else.
#[track_caller]
fn assert_owned(directory: &Path, owner: u32) {
    for path in below(directory) {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        assert_eq!((metadata.uid(), metadata.gid()), (owner, owner), "{}", path.display());
    }
    assert_eq!(directory.metadata().unwrap().mode() & 0o7777, 0o700);
    let names = below(directory);
    assert!(!names.iter().any(|name| name.to_string_lossy().contains(".volsnap")), "{names:?}");
}

/// Returns the lines of a text that another one has not.
fn lines_not_in<'t>(text: &'t str, other: &str) -> Vec<&'t str> {
    let other: BTreeSet<_> = other.lines().collect();
    text.lines().filter(|line| !other.contains(line)).collect()
}

#[tokio::test]
async fn a_service_moves_into_a_directory_and_back_with_every_row() {
    let mut scene = Scene::new().await;
    let place = scene.place();
    let before = scene.postgres.container.clone();

    // A look leaves nothing behind.
    let ran = scene.migrate(&["--dry-run"]);
    let said = ran.expect(0).stdout();
    for word in ["to be created", "-      - db_data:", &format!("+      - {}:", place.display()), "stops"] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    assert!(!scene.data.path().join("server").exists(), "a dry run leaves a directory");
    scene.assert_on_volume();
    scene.assert_tidy();
    assert_eq!(scene.postgres.container, before, "a dry run touches nothing");

    let _ = scene.volsnap.run(["snapshot", &scene.project.target(), "--quiet"]).expect(0);
    let done = scene.migrate(&["-y", "--json"]).json();
    let plan = &done["plan"];
    assert_eq!((&plan["direction"], &plan["makes"]), (&"to-directory".into(), &true.into()), "{plan:#}");
    assert_eq!((&plan["owner"][0], &plan["owner"][1]), (&999.into(), &999.into()), "{plan:#}");
    assert_eq!((&done["outcome"], &done["strict"]), (&"migrated".into(), &true.into()), "{done:#}");
    assert!(done["downtime_ms"].as_u64().unwrap() > 0 && done["compared_files"].as_u64().unwrap() > 500);
    scene.assert_on_directory();
    assert_owned(&place, 999);
    let (line, now) = (format!("      - {}:{MOUNTED_AT}", place.display()), scene.project.text());
    assert_eq!(lines_not_in(&now, &scene.text), [line.as_str()]);
    assert_eq!(lines_not_in(&scene.text, &now), [format!("      - db_data:{MOUNTED_AT}").as_str()]);
    assert_eq!(now.lines().count(), scene.text.lines().count());
    let backup = done["backups"][0].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(backup).unwrap(), scene.text);
    assert_eq!(scene.project.containers().len(), 1);
    scene.assert_settled();
    scene.assert_tidy();

    // Where the snapshot came from nothing would see it.
    scene.assert_restored_where_it_is();

    // The volume has what it had; twice is once.
    assert!(Path::new(&scene.mountpoint()).join("PG_VERSION").exists());
    let container = scene.postgres.container.clone();
    let again = scene.migrate(&["-y"]);
    assert!(again.expect(0).stdout().contains("already: nothing to do"), "{}", again.stdout());
    let again = scene.migrate(&["--dry-run", "--json"]);
    assert_eq!(again.json()["outcome"], "already");
    scene.look();
    assert_eq!(scene.postgres.container, container);

    scene.postgres.query("create table later as select 7 as n");
    assert!(done["back"].as_str().unwrap().ends_with("--back"), "{done:#}");
    let back = scene.back(&["-y", "--json"]).json();
    assert_eq!((&back["plan"]["direction"], &back["plan"]["replaces"]), (&"back".into(), &true.into()));
    scene.assert_on_volume();
    assert_eq!(scene.postgres.query("select n from later"), "7");
    assert_eq!(scene.project.text(), scene.text, "to the byte");
    assert!(place.join("PG_VERSION").exists(), "what was gone from is kept");
    scene.assert_settled();
    scene.assert_tidy();
}

#[tokio::test]
async fn the_way_back_brings_back_what_the_file_said() {
    let entry = format!("${{DATA_OF:-db_data}}:{MOUNTED_AT}:nocopy");
    let mut scene =
        Scene::with(|text| text.replace(&format!("db_data:{MOUNTED_AT}"), &format!("'{entry}' # ours")))
            .await;
    let _ = scene.migrate(&["-y"]).expect(0);
    scene.assert_on_directory();
    // Somebody goes on with the file meanwhile.
    scene.project.rewrite(|text| format!("# a note\n{text}"));
    scene.text = format!("# a note\n{}", scene.text);
    let _ = scene.back(&["-y"]).expect(0);
    scene.assert_on_volume();
    assert_eq!(scene.project.text(), scene.text);
}

#[tokio::test]
async fn an_override_file_has_the_mount_and_the_compose_file_stays() {
    let image = image_70();
    let mut scene =
        Scene::with(|text| text.replace("${POSTGRES_IMAGE:-volsnap-test/postgres:15}", &image)).await;
    let plan = scene.migrate(&["--override", "--dry-run", "--json"]).json();
    let file = plan["edits"][0]["path"].as_str().unwrap();
    assert!(file.ends_with("compose.override.yaml") && plan["edits"][0]["new"] == true, "{plan:#}");
    assert!(!Path::new(file).exists());

    let done = scene.migrate(&["--override", "-y", "--json"]).json();
    scene.assert_on_directory();
    assert_owned(&scene.place(), 70);
    assert_eq!(scene.project.text(), scene.text);
    assert!(std::fs::read_to_string(file).unwrap().contains(scene.place().to_str().unwrap()));
    assert_eq!(done["backups"].as_array().unwrap().len(), 0, "{done:#}");
    scene.assert_settled();

    let back = scene.back(&["-y", "--json"]).json();
    let edit = &back["plan"]["edits"][0];
    assert_eq!((&edit["path"], &edit["removed"]), (&file.into(), &true.into()), "{back:#}");
    assert!(!Path::new(file).exists(), "the override that was made goes again");
    scene.assert_on_volume();
    scene.assert_settled();
    scene.assert_tidy();
}

/// Beside the database and what writes to it: one that looks at the files, one that did and has ended, and a client
/// that says what was acknowledged.
const OTHERS: &str = r#"
  view:
    image: ${POSTGRES_IMAGE}
    entrypoint: ["bash", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1 & wait $$!; done"]
    stop_signal: SIGTERM
    network_mode: none
    volumes: ["db_data:/view:ro"]
    tmpfs: /var/lib/postgresql/data
    labels: ["${VOLSNAP_LABEL}"]
  ended:
    image: ${POSTGRES_IMAGE}
    entrypoint: ["bash", "-c", "exit 0"]
    network_mode: none
    volumes: ["db_data:/view"]
    tmpfs: /var/lib/postgresql/data
    labels: ["${VOLSNAP_LABEL}"]
  client:
    image: ${POSTGRES_IMAGE}
    depends_on: [db]
    environment: {PGHOST: db, PGDATABASE: memory_db, PGUSER: user, PGPASSWORD: secret-word, PGCONNECT_TIMEOUT: "1"}
    stop_signal: SIGTERM
    entrypoint: ["bash", "-c"]
    command:
      - |
        trap 'exit 0' TERM
        n=0
        while :; do
          n=$$((n + 1))
          psql -Xqtc "insert into acknowledged values ($$n)" 2>/dev/null && echo "$$n"
          sleep 0.02
        done
    tmpfs: /var/lib/postgresql/data
    labels: ["${VOLSNAP_LABEL}"]

volumes:
"#;

impl Scene {
    /// Returns one field of what the engine says of the container of a service, running or not.
    fn of_service(&self, service: &str, field: &str) -> String {
        let project = format!("label=com.docker.compose.project={}", self.project.name);
        let service = format!("label=com.docker.compose.service={service}");
        let id = docker(&["ps", "-aq", "--filter", &project, "--filter", &service]);
        docker(&["inspect", "--format", field, &id])
    }
}

/// The numbers that the client had acknowledged until now.
fn acknowledged(client: &str) -> BTreeSet<u64> {
    docker(&["logs", client]).lines().map(|line| line.trim().parse().unwrap()).collect()
}

#[tokio::test]
async fn no_acknowledged_row_is_lost_and_who_does_not_use_the_data_goes_on() {
    let mut scene = Scene::with(|text| text.replace("\nvolumes:\n", OTHERS)).await;
    scene.postgres.query("create table acknowledged (n bigint primary key)");
    scene.project.compose(&["up", "-d"]);
    let client = scene.of_service("client", "{{.Id}}");
    let begun = Instant::now();
    while acknowledged(&client).len() < 20 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the client does not write");
        std::thread::sleep(Duration::from_millis(100));
    }
    let state = |scene: &Scene| {
        ["app", "client"]
            .map(|service| scene.of_service(service, "{{.Id}} {{.State.StartedAt}} {{.State.Status}}"))
    };
    let before = state(&scene);

    let done = scene.migrate(&["-y", "--json"]).json();
    let held = acknowledged(&client).len();
    let begun = Instant::now();
    while acknowledged(&client).len() < held + 20 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the client does not write any more");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(done["strict"], false, "it was written to: {done:#}");
    scene.assert_on_directory();
    assert_eq!(state(&scene), before, "who does not use the data was touched");
    docker(&["stop", "-t", "10", &client]);
    let said = acknowledged(&client);
    let query = scene.postgres.query("select n from acknowledged");
    let there: BTreeSet<u64> = query.lines().map(|line| line.parse().unwrap()).collect();
    let lost: Vec<_> = said.difference(&there).collect();
    assert!(lost.is_empty(), "acknowledged, and lost: {lost:?}");

    // All who use it do so in the new place, and do what they did.
    let mount = "{{range .Mounts}}{{if eq .Destination \"/view\"}}{{.Source}} {{.RW}}{{end}}{{end}}";
    let place = scene.place().display().to_string();
    let seen = ["view", "ended"]
        .map(|service| (scene.of_service(service, mount), scene.of_service(service, "{{.State.Status}}")));
    assert_eq!(seen[0], (format!("{place} false"), "running".to_owned()));
    assert_eq!(seen[1].0, format!("{place} true"));
    assert!(["exited", "created"].contains(&seen[1].1.as_str()), "{seen:?}");
    let named: Vec<_> =
        done["plan"]["users"].as_array().unwrap().iter().map(|user| &user["service"]).collect();
    assert_eq!(named.len(), 3, "{named:?}");
    scene.assert_tidy();
}

/// Removes a test's network; dropped after the world with its containers.
struct Network(String);

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["network", "rm", &self.0]).output();
    }
}

/// Returns what the engine says of a container, without what has to be another one: its id, its times, what it was
/// given by chance, and where the engine has its files.
fn configuration(container: &str) -> Value {
    let mut all: Value = serde_json::from_str(&docker(&["inspect", container])).unwrap();
    let one = all[0].as_object_mut().unwrap();
    for field in [
        "Id",
        "Created",
        "State",
        "ResolvConfPath",
        "HostnamePath",
        "HostsPath",
        "LogPath",
        "GraphDriver",
        "ExecIDs",
    ] {
        one.remove(field);
    }
    one["Config"].as_object_mut().unwrap().remove("Hostname");
    let network = one["NetworkSettings"].as_object_mut().unwrap();
    network.retain(|field, _| field == "Networks");
    for endpoint in network["Networks"].as_object_mut().unwrap().values_mut() {
        endpoint.as_object_mut().unwrap().retain(|field, _| {
            ["IPAMConfig", "Links", "Aliases", "IPAddress", "NetworkID", "DriverOpts"]
                .contains(&field.as_str())
        });
        // The engine adds the short id.
        if let Some(aliases) = endpoint["Aliases"].as_array_mut() {
            aliases.retain(|alias| alias.as_str().is_none_or(|alias| alias.len() != 12));
        }
    }
    let mounts = one["Mounts"].as_array_mut().unwrap();
    mounts.sort_by_key(|mount| mount["Destination"].to_string());
    all[0].clone()
}

/// Returns where two values differ, as paths.
fn differing(a: &Value, b: &Value, at: &str, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let names: BTreeSet<_> = x.keys().chain(y.keys()).collect();
            for name in names {
                differing(&a[name.as_str()], &b[name.as_str()], &format!("{at}.{name}"), found);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (number, (a, b)) in x.iter().zip(y).enumerate() {
                differing(a, b, &format!("{at}[{number}]"), found);
            }
        }
        _ if a != b => found.push(format!("{at}: {a} in place of {b}")),
        _ => {}
    }
}

#[tokio::test]
async fn a_container_without_compose_differs_in_its_mount_alone() {
    let label = format!("{LABEL}={}", std::process::id());
    let number = std::process::id() % 250;
    let (subnet, address) = (format!("10.214.{number}.0/24"), format!("10.214.{number}.77"));
    let name = format!("volsnap-test-{}-migrate", std::process::id());
    let _network = Network(name.clone());
    docker(&["network", "create", "--label", &label, "--subnet", &subnet, &name]);
    let options = [
        ["--network", &name],
        ["--ip", &address],
        ["--network-alias", "pg"],
        ["--label", "who=ours"],
        ["-e", "TZ=Europe/Berlin"],
        ["-p", "127.0.0.1::5432"],
        ["--restart", "on-failure:3"],
        ["--cap-add", "SYS_NICE"],
        ["--memory", "512m"],
        ["--cpu-shares", "512"],
        ["--pids-limit", "200"],
        ["--shm-size", "96m"],
        ["--ulimit", "nofile=2048:4096"],
        ["--log-driver", "json-file"],
        ["--log-opt", "max-size=1m"],
        ["--stop-timeout", "42"],
        ["--health-cmd", "pg_isready -U user"],
        ["--health-interval", "2s"],
        ["--add-host", "other:10.0.0.1"],
        ["--tmpfs", "/scratch"],
        ["--security-opt", "no-new-privileges"],
    ];
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let postgres = Postgres { container: world.name("db"), volume: world.name("data"), world };
    let mount = format!("{}:{MOUNTED_AT}", postgres.volume);
    let fixed = [
        ["run", "-d"],
        ["--name", &postgres.container],
        ["--label", &label],
        ["-v", &mount],
        ["-e", "POSTGRES_USER=user"],
        ["-e", "POSTGRES_PASSWORD=secret-word"],
        ["-e", "POSTGRES_DB=memory_db"],
    ];
    docker(&[&fixed.concat()[..], &options.concat(), &[&image()]].concat());
    postgres.await_answer();
    postgres.query("create table kept as select n, md5(n::text) as text from generate_series(1, 1000) n");
    let data = tempfile::tempdir().unwrap();
    let place = data.path().join("postgres");
    let (id, before) = (postgres.inspect("{{.Id}}"), configuration(&postgres.container));

    let done = volsnap.run(["migrate", &postgres.target(), place.to_str().unwrap(), "-y", "--json"]).json();
    assert_eq!(done["strict"], true, "{done:#}");
    postgres.assert_whole();
    assert_ne!(postgres.inspect("{{.Id}}"), id);
    let old = Command::new("docker").args(["inspect", &id]).output().unwrap();
    assert!(!old.status.success(), "the old container is still there");
    let after = configuration(&postgres.container);
    let mut found = Vec::new();
    differing(&after, &before, "", &mut found);
    println!("differs: {found:#?}");
    let is_mount = |one: &String| {
        [".Mounts[0]", ".HostConfig.Binds", ".HostConfig.Mounts"].iter().any(|at| one.starts_with(at))
    };
    found.retain(|one| !is_mount(one));
    assert!(found.is_empty(), "{found:#?}");
    let mount = &after["Mounts"][0];
    assert_eq!(
        (&mount["Type"], &mount["Source"], &mount["Destination"], &mount["RW"]),
        (&"bind".into(), &place.to_str().unwrap().into(), &MOUNTED_AT.into(), &true.into())
    );
    assert_owned(&place, 999);

    let back = volsnap.run(["migrate", &postgres.target(), "--back", "-y", "--json"]).json();
    assert_eq!(back["outcome"], "migrated");
    postgres.assert_whole();
    let mut found = Vec::new();
    differing(&configuration(&postgres.container), &before, "", &mut found);
    found.retain(|one| !is_mount(one) || one.starts_with(".Mounts[0].Name"));
    assert!(found.is_empty(), "{found:#?}");
    volsnap.assert_no_leftovers();
    postgres.assert_no_helper();
}

#[tokio::test]
async fn what_cannot_be_migrated_is_refused_with_the_next_command_and_nothing_touched() {
    let mut scene = Scene::new().await;
    let started = scene.postgres.inspect("{{.State.StartedAt}}");
    let base = scene.data.path().to_owned();
    let at = |name: &str| base.join(name);
    std::fs::create_dir(at("full")).unwrap();
    std::fs::write(at("full/precious"), "x").unwrap();
    std::fs::create_dir(at("real")).unwrap();
    symlink(at("real"), at("link")).unwrap();
    let inside = PathBuf::from(scene.mountpoint()).with_file_name("postgres");
    for (place, code, words) in [
        (at("full"), 1, ["is not empty", "choose a directory that is empty"]),
        (at("link"), 2, ["symbolic link", "/real"]),
        (at("full/precious"), 2, ["no directory", "choose another"]),
        ("/etc/volsnap-test/postgres".into(), 2, ["lies in /etc", "/srv/db"]),
        (inside.clone(), 2, ["where the engine has its own", "/srv/db"]),
        ("/proc".into(), 2, ["lies in /proc", "choose a directory"]),
    ] {
        scene.migrate_to(&place, &["-y"]).refused(code, &[&words[..], &["nothing was stopped"]].concat());
    }
    // Nobody said yes.
    scene.migrate(&[]).refused(2, &["no terminal", "-y", "nothing was touched"]);
    // There is nothing to go back from.
    scene.back(&["-y"]).expect(0);

    let text = scene.text.clone();
    scene.project.rewrite(|text| text.replace("POSTGRES_DB: memory_db", "POSTGRES_DB: other_db"));
    scene
        .migrate(&["-y"])
        .refused(1, &["say another thing", "environment POSTGRES_DB", "--recreate", "nothing was stopped"]);
    scene.project.rewrite(|_| "services: [\n".to_owned());
    scene.migrate(&["-y"]).refused(1, &["compose.yaml", "nothing was stopped"]);
    let file = scene.project.directory().join("compose.yaml");
    std::fs::rename(&file, file.with_extension("away")).unwrap();
    scene.migrate(&["-y"]).refused(1, &["is not there", "put the file back", "nothing was stopped"]);
    std::fs::rename(file.with_extension("away"), &file).unwrap();
    scene.project.rewrite(|_| text);

    // A tablespace would stay behind.
    docker(&["exec", "-u", "postgres", &scene.postgres.container, "mkdir", "/var/lib/postgresql/outside"]);
    scene.postgres.query("create tablespace outside location '/var/lib/postgresql/outside'");
    scene
        .migrate(&["-y"])
        .refused(1, &["/var/lib/postgresql/outside", "move it into", "nothing was stopped"]);
    scene.postgres.query("drop tablespace outside");

    assert_eq!(scene.postgres.inspect("{{.State.StartedAt}}"), started, "it was stopped");
    scene.assert_on_volume();
    scene.assert_tidy();
    assert!(!inside.exists() && !Path::new("/etc/volsnap-test").exists());
    let mut left = below(&base);
    left.sort();
    let expected = ["full", "full/precious", "link", "real"].map(at);
    assert_eq!(left[1..], expected);
    let names = std::fs::read_dir(scene.project.directory()).unwrap().count();
    assert_eq!(names, 2, "a backup is left beside the compose file");
}

#[tokio::test]
async fn data_that_no_named_volume_has_is_refused() {
    let (world, volsnap) = (World::new().await, Volsnap::new());
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("to");
    let idle = "trap 'exit 0' TERM; ready; while :; do sleep 0.1; done";
    let bound = directory.path().join("from");
    std::fs::create_dir(&bound).unwrap();
    let bound = world.run_service("bound", &["-v", &format!("{}:/data", bound.display())], idle);
    let unnamed = world.run_service("unnamed", &["-v", "/data"], idle);
    for (container, words) in [
        (&bound, ["in a directory already", "--back"]),
        (&unnamed, ["a volume without a name", "volsnap snapshot"]),
    ] {
        let target = format!("container:{container}");
        let ran = volsnap.run(["migrate", &target, place.to_str().unwrap(), "-y"]);
        ran.refused(2, &[&words[..], &["nothing was stopped"]].concat());
    }
    // Of which volume it came nobody knows.
    let ran = volsnap.run(["migrate", &format!("container:{bound}"), "--back", "-y"]);
    ran.refused(2, &["is not known here", "--volume NAME", "nothing was stopped"]);
    assert!(!place.exists());
    volsnap.assert_no_leftovers();
}

#[tokio::test]
async fn a_database_that_refuses_the_copy_has_everything_back() {
    let user = "db:\n    user: \"999:999\"\n";
    let mut scene = Scene::with(|text| text.replacen("db:\n", user, 1)).await;
    scene.postgres.query("create table later as select 7 as n");
    let before = std::fs::metadata(scene.project.directory().join("compose.yaml")).unwrap();
    let ran = scene.migrate(&["-y", "--owner", "1:1"]);
    ran.refused(1, &["everything is as it was before", "runs again", "--owner 999:999"]);
    scene.assert_on_volume();
    assert_eq!(scene.postgres.query("select n from later"), "7");
    assert!(!scene.data.path().join("server").exists(), "the directory is left");
    let names: Vec<_> = below(scene.project.directory());
    assert_eq!(names.len(), 3, "{names:?}");
    let after = std::fs::metadata(scene.project.directory().join("compose.yaml")).unwrap();
    assert_eq!((before.mode(), before.mtime()), (after.mode(), after.mtime()));
    scene.assert_settled();
    scene.assert_tidy();

    // With the right owner the same goes through.
    let _ = scene.migrate(&["-y"]).expect(0);
    scene.assert_on_directory();
    scene.assert_tidy();
}

#[tokio::test]
async fn a_migration_that_is_interrupted_while_it_copies_is_gone_on_with() {
    let mut scene = Scene::new().await;
    let (place, started) = (scene.place(), scene.postgres.inspect("{{.State.StartedAt}}"));
    let target = scene.project.target();
    let command = ["migrate", &target, place.to_str().unwrap(), "-y"];

    // Before there is anything to go on from, nothing is left.
    let mut watched = Watched::start(scene.volsnap.command(command));
    assert!(watched.reach("live-pass"));
    watched.signal(Signal::SIGINT);
    let (code, said) = watched.end();
    assert!(code == Some(130) && said.contains("nothing was stopped"), "{code:?} {said}");
    assert!(!scene.data.path().join("server").exists(), "{said}");

    let mut watched = Watched::start(scene.volsnap.command(command));
    assert!(watched.reach("compare"));
    watched.signal(Signal::SIGINT);
    let (code, said) = watched.end();
    assert_eq!(code, Some(130), "{said}");
    let path = place.to_str().unwrap();
    for word in
        ["nothing was stopped", "the copy so far stays", path, "goes on from it", &format!("rm -r {path}")]
    {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    assert_eq!(scene.postgres.inspect("{{.State.StartedAt}}"), started);
    let names: Vec<_> = std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.len() == 1 && names[0].to_string_lossy().starts_with(".volsnap"), "{names:?}");
    scene.assert_on_volume();
    scene.assert_tidy();

    let plan = scene.migrate(&["--dry-run", "--json"]).json();
    assert_eq!((&plan["resumes"], &plan["makes"]), (&true.into(), &false.into()), "{plan:#}");
    assert_eq!(names.len(), std::fs::read_dir(&place).unwrap().count(), "a dry run takes it away");
    let done = scene.migrate(&["-y", "--json"]).json();
    assert_eq!(done["plan"]["resumes"], true, "{done:#}");
    scene.assert_on_directory();
    assert_owned(&place, 999);
    scene.assert_tidy();
}

/// Whatever is asked for and however it goes, nothing that the files of a project set is printed.
#[tokio::test]
async fn no_secret_of_a_compose_file_is_printed() {
    const SECRETS: [&str; 6] = ["hunter2", "t0ken", "k3y", "n0te", "secret-word", "f1le"];
    let scene = Scene::with(|text| {
        let environment = "    environment:\n      APP_KEY: k3y-value\n";
        assert!(text.contains("    environment:\n"), "{text}");
        // One beside the mount, one in a comment of its line, and one in a label.
        let text = text.replacen("    environment:\n", environment, 1);
        let text = text.replacen("    labels:\n", "    labels:\n      - app.token=t0ken-value\n", 1);
        let mount = text.lines().find(|line| line.contains(MOUNTED_AT)).unwrap().to_owned();
        text.replacen(&mount, &format!("{mount} # n0te hunter2"), 1)
    })
    .await;
    let assert_silent = |ran: &Ran| {
        let said = format!("{}{}", ran.stdout(), ran.stderr());
        for secret in SECRETS {
            assert!(!said.contains(secret), "{secret} is printed:\n{said}");
        }
    };
    for options in
        [&["--dry-run"][..], &["--dry-run", "--json"], &["--dry-run", "-vv"], &["--dry-run", "-vvv"]]
    {
        let ran = scene.migrate(options);
        assert_silent(&ran);
        assert!(ran.expect(0).stdout().contains("server/postgres"), "what changes is shown");
    }
    // Compose quotes what it does not understand.
    for (what, broken) in [
        ("APP_KEY: k3y-value", "APP_KEY: 'hunter2$%'"),
        ("      APP_KEY: k3y-value\n", "      APP_KEY: [hunter2-f1le]\n"),
        ("      APP_KEY: k3y-value\n", "      APP_KEY: \"hunter2\n"),
    ] {
        let text = scene.project.text();
        scene.project.rewrite(|text| text.replacen(what, broken, 1));
        for ran in [
            scene.migrate(&["-y", "-vv"]),
            scene.volsnap.run(["restart", &scene.project.target(), "--recreate", "-vv"]),
        ] {
            assert_ne!(ran.code(), Some(0), "{broken}");
            assert_silent(&ran);
        }
        scene.project.rewrite(|_| text);
    }
    for ran in [
        scene.migrate(&["-y", "-vv", "--json"]),
        scene.volsnap.run(["doctor", "--json", "-vvv"]),
        scene.volsnap.run(["recover", "--list", "--json"]),
    ] {
        assert_silent(&ran);
    }
}
