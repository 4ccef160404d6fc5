//! `restore`: put a snapshot back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use volsnap::Error;
use volsnap::ops::restore::{Archive, Destination, Force, RestoreOptions, RestorePlan, restore};
use volsnap::ops::{Consent, Context};
use volsnap::repository::tarball::layout::{FileKind, FileName, MARKER, SnapshotNames};
use volsnap::selector::Target;

use super::bystanders::BystandersArgs;
use super::question::{ask, refuse_without_terminal};
use super::{Global, keys};
use crate::render::Ui;

/// Restore a snapshot, and keep the data that it replaces
///
/// Reads the whole archive first and extracts it beside the live data, while the service still runs.
/// Then stops the service for a few moments, swaps old and new data, starts the service, and waits until
/// the database answers on the restored data. If anything fails on the way, even by kill -9, puts the old
/// data back and the service runs on it. Keeps what it replaced as a safety snapshot.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An id, a unique prefix of one, `latest`, `SOURCE`, `SOURCE/latest`, or a path to an archive, even of another
    /// tool (.tar, .tar.gz, .tar.bz2, .tar.xz, .tar.zst), or to a copied directory
    snapshot: String,
    /// Restore into this, instead of where it came from: `db`, `service:db`, `volume:NAME`, `path:DIR` …
    #[arg(long, value_name = "TARGET", group = "destination")]
    to: Option<Target>,
    /// Restore into a new volume, with the labels that the old one had
    #[arg(long, value_name = "NAME", group = "destination")]
    new_volume: Option<String>,
    /// Restore into a directory that is empty or not there yet
    #[arg(long, value_name = "DIR", group = "destination")]
    dir: Option<PathBuf>,
    /// Give everything to this owner, such as 999:999 [default: the owners in the archive]
    #[arg(long, value_name = "UID:GID", value_parser = parse_owner)]
    owner: Option<(u32, u32)>,
    /// Do not keep the replaced data as a safety snapshot
    #[arg(long)]
    no_safety: bool,
    /// Keep the replication slots that the snapshot has: for a planned move, where nothing was written since
    #[arg(long)]
    keep_slots: bool,
    /// Replace the data even if it is of another database cluster
    #[arg(long)]
    force_different_cluster: bool,
    /// Restore even into a server of another major version
    #[arg(long)]
    force_version: bool,
    /// Restore even what was saved on another architecture
    #[arg(long)]
    force_architecture: bool,
    /// Restore even into an image whose C library sorts text differently
    #[arg(long)]
    force_collation: bool,
    /// How long to wait for a container to stop, such as 90s; it is never killed [default: 10m for what keeps data, for
    /// any other the time that its owner has given it, else 1m]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    stop_timeout: Option<Duration>,
    #[command(flatten)]
    bystanders: BystandersArgs,
    /// Let this container be killed if it does not stop in time, as one with the label volsnap.kill=true may be; you can
    /// give several
    #[arg(long = "kill", value_name = "NAME")]
    kills: Vec<String>,
    /// Use this image for the helper container, instead of the one that volsnap packs from itself
    #[arg(long, value_name = "IMAGE")]
    helper_image: Option<String>,
    /// Print the plan, and touch nothing
    #[arg(long)]
    dry_run: bool,
}

/// Restores, once the user agrees to the plan.
pub(crate) async fn run(global: &Global, args: Args, ui: &Ui) -> Result<ExitCode, Error> {
    if !global.yes && !args.dry_run {
        refuse_without_terminal("replace the data")?;
    }
    let options = args.options(global).await?;
    let host = global.host(ui).await?.only_planning(args.dry_run);
    let host = Context { bystanders: args.bystanders.get(), ..host };
    let consent = async |plan: &RestorePlan| {
        if args.dry_run {
            ui.finish_progress();
            ui.restore_plan(plan);
            return Ok(Consent::Decline);
        }
        ui.finish_progress();
        ui.show_restore_plan(plan);
        if global.yes { Ok(Consent::Execute) } else { ask(ui).await }
    };
    let restored = restore(&host, &options, consent).await?;
    ui.finish_progress();
    restored.iter().for_each(|restored| ui.restored(restored));
    Ok(ExitCode::SUCCESS)
}

impl Args {
    async fn options(&self, global: &Global) -> Result<RestoreOptions, Error> {
        let destination = match (&self.to, &self.new_volume, &self.dir) {
            (Some(target), ..) => Destination::Target(target.clone()),
            (_, Some(name), _) => Destination::NewVolume(name.clone()),
            (.., Some(path)) => Destination::Directory(path.clone()),
            _ => Destination::Origin,
        };
        Ok(RestoreOptions {
            repository: global.repository_location()?,
            archive: archive(global, &self.snapshot).await?,
            destination,
            owner: self.owner,
            force: Force {
                different_cluster: self.force_different_cluster,
                version: self.force_version,
                architecture: self.force_architecture,
                collation: self.force_collation,
            },
            safety: !self.no_safety,
            keep_slots: self.keep_slots,
            stop_timeout: self.stop_timeout,
            kills: self.kills.clone(),
            helper_image: self.helper_image.clone(),
        })
    }
}

/// Returns what `spec` means: a snapshot, the archive of another tool, or a directory.
async fn archive(global: &Global, spec: &str) -> Result<Archive, Error> {
    let path = Path::new(spec);
    let found = global.snapshot(spec).await;
    match found {
        Ok(snapshot) => Ok(Archive::Snapshot(Box::new(keys::opened(snapshot).await?))),
        Err(error) if is_of_a_snapshot(path) => Err(error),
        Err(error) => Archive::at(path).ok_or(error),
    }
}

/// Returns whether a file is part of a snapshot by its name, and must not be restored apart from it: it is no archive,
/// the manifest lies beside it, or it is in a repository, where an archive without a manifest is half a snapshot. One
/// that was carried away alone is an archive like others.
fn is_of_a_snapshot(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(parsed) = FileName::parse(&name) else { return false };
    let names = SnapshotNames::new(parsed.source, &parsed.id);
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let is_in_repository =
        absolute.ancestors().nth(3).is_some_and(|root| root.join(MARKER.as_str()).is_file());
    let has_manifest = path.with_file_name(names.manifest()).exists();
    parsed.partial || parsed.kind != FileKind::Archive || has_manifest || is_in_repository
}

pub(super) fn parse_owner(text: &str) -> Result<(u32, u32), String> {
    let (uid, gid) = text.split_once(':').ok_or("an owner is UID:GID, both numbers, such as 999:999")?;
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Ok((uid, gid)),
        _ => Err("an owner is UID:GID, both numbers, such as 999:999".to_owned()),
    }
}
