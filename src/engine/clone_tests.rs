//! What to ask for, from what an engine says.

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const ANONYMOUS: &str = "3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a3f2a";

/// A container as an engine describes it, with a field that nobody here knows.
fn inspected() -> Value {
    json!({
        "Id": ID,
        "Image": "sha256:00",
        "Platform": "linux",
        "Config": {
            "Hostname": "0123456789ab", "Image": "postgres:15", "Env": ["POSTGRES_PASSWORD=s3cret"],
            "Labels": {"a": "b"}, "StopSignal": "SIGINT", "FieldOfTomorrow": {"x": 1},
            "Volumes": {"/var/lib/postgresql/data": {}, "/scratch": {}}
        },
        "HostConfig": {
            "Binds": ["pgdata:/var/lib/postgresql/data:ro,nocopy", "/etc/pg:/etc/pg:ro"],
            "Mounts": [{"Type": "tmpfs", "Target": "/run"}],
            "Links": ["/other:/db/alias"], "NetworkMode": "back", "Memory": 268_435_456, "OptionOfTomorrow": [1, 2]
        },
        "NetworkSettings": {"Networks": {
            "back": {
                "IPAMConfig": {"IPv4Address": "10.5.0.7"}, "Aliases": ["db", "0123456789ab"], "NetworkID": "n1",
                "EndpointID": "e1", "IPAddress": "10.5.0.7", "MacAddress": "02:42:0a:05:00:07", "WishOfTomorrow": "w"
            },
            "front": {"IPAMConfig": null, "Aliases": ["pg"], "NetworkID": "n2"}
        }},
        "Mounts": [
            {"Type": "volume", "Name": "pgdata", "Source": "/v/pgdata", "Destination": "/var/lib/postgresql/data", "RW": false},
            {"Type": "volume", "Name": ANONYMOUS, "Source": "/v/anonymous", "Destination": "/scratch", "RW": true},
            {"Type": "bind", "Source": "/etc/pg", "Destination": "/etc/pg", "RW": false}
        ]
    })
}

fn moved() -> MountSource {
    MountSource::Directory("/data/pg".into())
}

fn at_data(source: &MountSource) -> Option<NewMount<'_>> {
    Some(NewMount { destination: Path::new("/var/lib/postgresql/data"), source })
}

#[test]
fn the_configuration_goes_over_whole_but_for_the_one_mount() {
    let directory = moved();
    let Likeness { body, networks } = likeness(&inspected(), at_data(&directory), "postgres:15").unwrap();
    assert_eq!(
        body,
        json!({
            "Image": "postgres:15", "Env": ["POSTGRES_PASSWORD=s3cret"], "Labels": {"a": "b"},
            "StopSignal": "SIGINT", "FieldOfTomorrow": {"x": 1},
            "Volumes": {"/var/lib/postgresql/data": {}, "/scratch": {}},
            "HostConfig": {
                "Binds": ["/etc/pg:/etc/pg:ro"],
                "Mounts": [
                    {"Type": "tmpfs", "Target": "/run"},
                    {"Type": "bind", "Source": "/data/pg", "Target": "/var/lib/postgresql/data", "ReadOnly": true},
                    {"Type": "volume", "Source": ANONYMOUS, "Target": "/scratch", "ReadOnly": false}
                ],
                "Links": ["other:alias"], "NetworkMode": "back", "Memory": 268_435_456, "OptionOfTomorrow": [1, 2]
            },
            "NetworkingConfig": {"EndpointsConfig": {"back": {
                "IPAMConfig": {"IPv4Address": "10.5.0.7"}, "Aliases": ["db"], "WishOfTomorrow": "w"
            }}}
        })
    );
    assert_eq!(networks, [("front".to_owned(), json!({"IPAMConfig": null, "Aliases": ["pg"]}))]);
}

#[test]
fn a_mount_in_the_long_form_keeps_what_holds_for_both() {
    let mut container = inspected();
    container["HostConfig"]["Binds"] = Value::Null;
    container["HostConfig"]["Mounts"] = json!([{
        "Type": "bind", "Source": "/data/pg", "Target": "/var/lib/postgresql/data", "Consistency": "default",
        "BindOptions": {"Propagation": "rprivate"}
    }]);
    container["Mounts"][0]["RW"] = json!(true);
    let volume = MountSource::Volume("pgdata".to_owned());
    let body = likeness(&container, at_data(&volume), "postgres:15").unwrap().body;
    assert_eq!(
        body["HostConfig"]["Mounts"][0],
        json!({
            "Type": "volume", "Source": "pgdata", "Target": "/var/lib/postgresql/data", "Consistency": "default",
            "ReadOnly": false
        })
    );
}

#[test]
fn who_shares_a_network_has_none_of_its_own() {
    let mut container = inspected();
    container["HostConfig"]["NetworkMode"] = json!("container:77");
    container["Config"]["Hostname"] = json!("named");
    container["Config"]["ExposedPorts"] = json!({"5432/tcp": {}});
    container["NetworkSettings"]["Networks"] = json!({});
    let directory = moved();
    let Likeness { body, networks } = likeness(&container, at_data(&directory), "x").unwrap();
    assert!(body.get("Hostname").is_none() && body.get("ExposedPorts").is_none());
    assert_eq!(body["HostConfig"]["NetworkMode"], "container:77");
    assert_eq!((&body["NetworkingConfig"]["EndpointsConfig"], networks.len()), (&json!({}), 0));
}

#[test]
fn where_nothing_is_mounted_nothing_is_replaced() {
    let (mut container, directory) = (inspected(), moved());
    container["Mounts"] = json!([]);
    assert!(likeness(&container, at_data(&directory), "x").unwrap_err().contains("nothing is mounted"));
}

/// Returns the container that the engine would make from it.
fn made() -> Value {
    let mut made = inspected();
    let id = ID.replace('0', "f");
    made["Config"]["Hostname"] = json!(id[..12]);
    made["Config"]["Image"] = json!("sha256:00");
    made["NetworkSettings"]["Networks"]["back"]["Aliases"] = json!(["db", &id[..12]]);
    made["NetworkSettings"]["Networks"]["back"]["IPAddress"] = json!("");
    made["Id"] = json!(id);
    made["Mounts"][0] =
        json!({"Type": "bind", "Source": "/data/pg", "Destination": "/var/lib/postgresql/data", "RW": false});
    made
}

#[test]
fn what_the_engine_hands_out_is_no_difference_and_everything_else_is() {
    let (old, directory) = (inspected(), moved());
    let differ = |change: fn(&mut Value)| {
        let mut made = made();
        change(&mut made);
        differences(&old, &made, at_data(&directory))
    };
    assert_eq!(differ(|_| {}), Vec::<String>::new());
    assert_eq!(differ(|made| made["Image"] = json!("sha256:11")), ["Image"]);
    assert_eq!(differ(|made| made["Config"]["Env"] = json!([])), ["Config.Env"]);
    assert_eq!(
        differ(|made| made["Config"]["FieldOfTomorrow"]["x"] = json!(2)),
        ["Config.FieldOfTomorrow.x"]
    );
    assert_eq!(differ(|made| made["HostConfig"]["Memory"] = json!(0)), ["HostConfig.Memory"]);
    let aliases = |made: &mut Value| made["NetworkSettings"]["Networks"]["front"]["Aliases"] = Value::Null;
    assert_eq!(differ(aliases), ["Networks.front.Aliases"]);
    assert_eq!(differ(|made| made["Mounts"][1]["Name"] = json!("another")), ["Mounts./scratch"]);
    assert_eq!(differ(|made| made["Mounts"][0]["RW"] = json!(true)), ["MountMode"]);
    assert_eq!(differ(|made| made["Mounts"][0]["Source"] = json!("/x")), ["Mounts./var/lib/postgresql/data"]);
    assert_eq!(differ(|made| made["HostConfig"]["CapAdd"] = json!(["NET_ADMIN"])), ["HostConfig.CapAdd"]);
}
