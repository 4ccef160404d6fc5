//! Page checksums: whether each page of a relation file is as PostgreSQL wrote it.
//!
//! The rules are those of `pg_checksums`: `src/include/storage/checksum_impl.h` for the sum,
//! `src/bin/pg_checksums/pg_checksums.c` for which files have pages. As there, the answer means something only for a
//! cluster that was shut down cleanly; in a running one a page may be torn.

use std::fmt;
use std::path::Path;

use multiversion::multiversion;

/// Where the checksum lies in a page, in bytes; two bytes, little-endian.
const CHECKSUM: usize = 8;
/// Where `pd_upper` lies in a page, in bytes; 0 in a page that was never filled.
const UPPER: usize = 14;
/// How many sums run beside each other (`N_SUMS`).
const LANES: usize = 32;
/// Bytes of one word for each sum.
const ROW: usize = LANES * 4;
/// The prime of the FNV-1a hash.
const PRIME: u32 = 16_777_619;

/// Where each sum begins (`checksumBaseOffsets`).
const BASE: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// Returns the checksum of a page that lies at `block`, counted over all segments of its relation.
///
/// The field that holds the checksum does not count. A page is a multiple of 128 bytes long (as is every size that
/// PostgreSQL can be built with); what is left over does not count either.
#[must_use]
pub fn page_checksum(page: &[u8], block: u32) -> u16 {
    let sum = page_sum(page) ^ block;
    // Never 0, which means "no checksum". The remainder is below 65535, so the sum fits.
    u16::try_from(sum % 65_535 + 1).unwrap_or(u16::MAX)
}

/// Returns the sum of a page's words: 32 sums side by side, each over every 32nd word.
///
/// The code lets the compiler keep the sums in vector registers; without AVX2 no vector instruction multiplies 32-bit
/// numbers, so the plain build of x86-64 would be several times slower.
#[multiversion(targets(
    "x86_64+avx512f+avx512bw+avx512dq+avx512vl",
    "x86_64+avx2",
    "x86_64+sse4.1",
    "aarch64+neon"
))]
fn page_sum(page: &[u8]) -> u32 {
    let mut sums = BASE;
    let (rows, _) = page.as_chunks::<ROW>();
    if let Some((first, rest)) = rows.split_first() {
        let mut first = *first;
        first[CHECKSUM..CHECKSUM + 2].fill(0);
        mix(&mut sums, &first);
        for row in rest {
            mix(&mut sums, row);
        }
    }
    mix(&mut sums, &[0; ROW]);
    mix(&mut sums, &[0; ROW]);
    sums.iter().fold(0, |folded, sum| folded ^ sum)
}

/// Mixes one word into each sum.
#[inline(always)]
fn mix(sums: &mut [u32; LANES], row: &[u8; ROW]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

/// What a page turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageState {
    /// Never filled: all zeros.
    New,
    /// Its checksum is right.
    Valid,
    /// Its checksum does not match its content, or it lies at another block than it was written to.
    Invalid {
        /// The checksum in the page.
        stored: u16,
        /// The checksum of its content.
        computed: u16,
    },
    /// It says that it was never filled, yet is not all zeros.
    NotEmpty,
}

impl fmt::Display for PageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("was never filled"),
            Self::Valid => f.write_str("has the right checksum"),
            Self::Invalid { stored, computed } => {
                write!(f, "its checksum is {stored:#06x}, and that of its content {computed:#06x}")
            }
            Self::NotEmpty => f.write_str("says that it was never filled, and is not all zeros"),
        }
    }
}

/// Returns what the page at `block` is, counted over all segments of its relation. A page without room for a page
/// header is invalid.
#[must_use]
pub fn check_page(page: &[u8], block: u32) -> PageState {
    let field = |at: usize| page.get(at..at + 2).map_or(0, |field| u16::from_le_bytes([field[0], field[1]]));
    if field(UPPER) == 0 {
        return if page.iter().all(|byte| *byte == 0) { PageState::New } else { PageState::NotEmpty };
    }
    let (stored, computed) = (field(CHECKSUM), page_checksum(page, block));
    if stored == computed { PageState::Valid } else { PageState::Invalid { stored, computed } }
}

/// Which part of a relation a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fork {
    /// Its rows, or the entries of an index.
    Main,
    /// The free space map.
    FreeSpaceMap,
    /// The visibility map.
    VisibilityMap,
    /// The state that an unlogged relation is reset to.
    Init,
}

/// A file that consists of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelationFile {
    /// The number of the segment, from 0.
    pub segment: u32,
    /// Which part of the relation it holds.
    pub fork: Fork,
}

impl RelationFile {
    /// Returns which relation file lies at this path, relative to the data directory; `None` for any other file.
    ///
    /// Relations lie in `global/`, `base/DATABASE/` and, for every tablespace, `PG_MAJOR_CATALOG/DATABASE/`, wherever
    /// the tablespace itself is: in `pg_tblspc/` or, if it is a link to a directory in the same volume, elsewhere. Only
    /// names that PostgreSQL gives to relations count. So `pg_control`, `pg_filenode.map`, `pg_internal.init`,
    /// `PG_VERSION`, `pgsql_tmp*` and anything that is not PostgreSQL's are no relation files; temporary relations are.
    #[must_use]
    pub fn parse(path: &Path) -> Option<Self> {
        let parts = path.iter().map(|part| part.to_str()).collect::<Option<Vec<_>>>()?;
        let name = match parts.as_slice() {
            ["global", name] => name,
            ["base", database, name] if is_number(database) => name,
            [.., tablespace, database, name] if is_tablespace_version(tablespace) && is_number(database) => {
                name
            }
            _ => return None,
        };
        Self::parse_name(name)
    }

    /// Parses `16384`, `16384_fsm`, `16384_vm.1`, and `t3_16384` for a temporary relation.
    fn parse_name(name: &str) -> Option<Self> {
        let (stem, segment) = match name.split_once('.') {
            // Segment 0 has no suffix, and no number begins with 0.
            Some((stem, suffix)) if is_number(suffix) && !suffix.starts_with('0') => {
                (stem, suffix.parse().ok()?)
            }
            Some(_) => return None,
            None => (name, 0),
        };
        let (number, fork) = if let Some(number) = stem.strip_suffix("_fsm") {
            (number, Fork::FreeSpaceMap)
        } else if let Some(number) = stem.strip_suffix("_vm") {
            (number, Fork::VisibilityMap)
        } else if let Some(number) = stem.strip_suffix("_init") {
            (number, Fork::Init)
        } else {
            (stem, Fork::Main)
        };
        let is_relation = match number.strip_prefix('t').and_then(|rest| rest.split_once('_')) {
            Some((backend, number)) => is_number(backend) && is_number(number),
            None => is_number(number),
        };
        is_relation.then_some(Self { segment, fork })
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns whether this is the directory that a version keeps in a tablespace, such as `PG_15_202209061`.
fn is_tablespace_version(name: &str) -> bool {
    name.strip_prefix("PG_")
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(major, catalog)| is_number(major) && is_number(catalog))
}

/// A page that is not as PostgreSQL wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPage {
    /// Which page of this file, from 0.
    pub block: u32,
    /// What is wrong with it; never [`PageState::New`] or [`PageState::Valid`].
    pub state: PageState,
}

/// What the pages of one file turn out to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageReport {
    /// Whole pages that were checked.
    pub pages: u64,
    /// How many of them were never filled.
    pub new_pages: u64,
    /// The damaged pages, in their order.
    pub bad: Vec<BadPage>,
    /// Bytes after the last whole page; a sound relation file has none.
    pub trailing_bytes: usize,
}

impl PageReport {
    /// Returns whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.bad.is_empty() && self.trailing_bytes == 0
    }
}

/// Checks the pages of one relation file, which comes in pieces of any length.
///
/// It copies at most one page per piece: the page in whose middle the piece begins.
#[derive(Debug)]
pub struct PageChecker {
    page_size: usize,
    /// The number of this file's first page in its relation.
    first_block: u32,
    /// The beginning of a page whose rest has not come yet.
    begun: Vec<u8>,
    report: PageReport,
}

impl PageChecker {
    /// Returns a checker for `relation_file`; the sizes come from the control file: bytes of a page, and pages of a
    /// full segment.
    #[must_use]
    pub fn new(relation_file: RelationFile, page_size: u32, pages_per_segment: u32) -> Self {
        let page_size = usize::try_from(page_size).unwrap_or(usize::MAX).max(ROW);
        Self {
            page_size,
            // PostgreSQL's block numbers are 32 bits; a segment beyond them is not PostgreSQL's.
            first_block: relation_file.segment.wrapping_mul(pages_per_segment),
            begun: Vec::with_capacity(page_size),
            report: PageReport::default(),
        }
    }

    /// Takes the next piece of the file.
    pub fn feed(&mut self, mut piece: &[u8]) {
        if !self.begun.is_empty() {
            let missing = self.page_size - self.begun.len();
            let (rest_of_page, after) = piece.split_at(missing.min(piece.len()));
            self.begun.extend_from_slice(rest_of_page);
            piece = after;
            if self.begun.len() < self.page_size {
                return;
            }
            let page = std::mem::take(&mut self.begun);
            self.check(&page);
            self.begun = page;
            self.begun.clear();
        }
        let pages = piece.chunks_exact(self.page_size);
        self.begun.extend_from_slice(pages.remainder());
        for page in pages {
            self.check(page);
        }
    }

    /// Ends the file and returns what was found.
    #[must_use]
    pub fn finish(mut self) -> PageReport {
        self.report.trailing_bytes = self.begun.len();
        self.report
    }

    fn check(&mut self, page: &[u8]) {
        // Block numbers wrap like the field that they are mixed into: no file of PostgreSQL's is that long.
        let block = u32::try_from(self.report.pages & u64::from(u32::MAX)).unwrap_or(0);
        self.report.pages += 1;
        match check_page(page, self.first_block.wrapping_add(block)) {
            PageState::Valid => {}
            PageState::New => self.report.new_pages += 1,
            state => self.report.bad.push(BadPage { block, state }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const HEAP: &[u8] = include_bytes!("../../../fixtures/pages/heap.bin");
    const FREE_SPACE: &[u8] = include_bytes!("../../../fixtures/pages/fsm.bin");
    const VISIBILITY: &[u8] = include_bytes!("../../../fixtures/pages/vm.bin");
    const SEGMENT_1: &[u8] = include_bytes!("../../../fixtures/pages/heap-segment-1.bin");
    const PAGE: usize = 8192;
    const MAIN: RelationFile = RelationFile { segment: 0, fork: Fork::Main };

    fn report_of(relation_file: RelationFile, pieces: &[&[u8]]) -> PageReport {
        let mut checker = PageChecker::new(relation_file, 8192, 131_072);
        for piece in pieces {
            checker.feed(piece);
        }
        checker.finish()
    }

    #[rstest]
    #[case::heap(HEAP, 0)]
    #[case::free_space_map(FREE_SPACE, 0)]
    #[case::visibility_map(VISIBILITY, 0)]
    #[case::second_segment(SEGMENT_1, 1)]
    fn pages_that_postgresql_wrote_are_valid(#[case] file: &[u8], #[case] segment: u32) {
        let report = report_of(RelationFile { segment, fork: Fork::Main }, &[file]);
        assert!(report.is_sound(), "{report:?}");
        assert_eq!(report.pages, file.len() as u64 / 8192);
    }

    #[test]
    fn a_page_at_another_block_is_invalid() {
        let stored = u16::from_le_bytes([HEAP[8], HEAP[9]]);
        assert_eq!(page_checksum(&HEAP[..PAGE], 0), stored);
        assert!(matches!(check_page(&HEAP[..PAGE], 1), PageState::Invalid { .. }));
        assert!(!report_of(MAIN, &[SEGMENT_1]).is_sound());
    }

    #[test]
    fn a_flipped_bit_is_found_with_its_block() {
        for offset in [0, 7, 8, 10, 20, 24, 4000, 8191] {
            let mut file = HEAP.to_vec();
            file[PAGE + offset] ^= 1;
            let report = report_of(MAIN, &[&file]);
            assert_eq!(report.bad.len(), 1, "offset {offset}");
            assert_eq!(report.bad[0].block, 1);
            assert!(matches!(report.bad[0].state, PageState::Invalid { .. }));
        }
    }

    #[test]
    fn a_new_page_must_be_all_zero() {
        let mut page = vec![0; PAGE];
        assert_eq!(check_page(&page, 9), PageState::New);
        page[8000] = 1;
        assert_eq!(check_page(&page, 9), PageState::NotEmpty);
        let report = report_of(MAIN, &[&[0; PAGE], &page]);
        assert_eq!((report.pages, report.new_pages), (2, 1));
        assert_eq!(report.bad, [BadPage { block: 1, state: PageState::NotEmpty }]);
    }

    #[test]
    fn a_page_cut_off_is_reported() {
        let report = report_of(MAIN, &[&HEAP[..PAGE + 100]]);
        assert_eq!((report.pages, report.trailing_bytes), (1, 100));
        assert!(!report.is_sound());
    }

    #[rstest]
    #[case("global/1262", 0, Fork::Main)]
    #[case("global/1262_fsm", 0, Fork::FreeSpaceMap)]
    #[case("base/16384/16385.12", 12, Fork::Main)]
    #[case("base/16384/16385_vm.1", 1, Fork::VisibilityMap)]
    #[case("base/16384/16385_init", 0, Fork::Init)]
    #[case("base/16384/t3_16390", 0, Fork::Main)]
    #[case("base/16384/t3_16390_fsm", 0, Fork::FreeSpaceMap)]
    #[case("pg_tblspc/16400/PG_15_202209061/16384/16401.2", 2, Fork::Main)]
    #[case("spaces/fast/PG_15_202209061/16384/16401", 0, Fork::Main)]
    fn relation_files_are_known_by_their_path(#[case] path: &str, #[case] segment: u32, #[case] fork: Fork) {
        assert_eq!(RelationFile::parse(Path::new(path)), Some(RelationFile { segment, fork }));
    }

    #[rstest]
    #[case("global/pg_control")]
    #[case("global/pg_filenode.map")]
    #[case("global/pg_internal.init")]
    #[case("base/16384/pg_internal.init.77")]
    #[case("base/16384/PG_VERSION")]
    #[case("base/pgsql_tmp/pgsql_tmp123.0")]
    #[case("base/pgsql_tmp/12")]
    #[case("base/16384/16385.0")]
    #[case("base/16384/16385.01")]
    #[case("base/16384/16385.x")]
    #[case("base/16384/16385_old")]
    #[case("base/16384/t3")]
    #[case("base/16384/.DS_Store")]
    #[case("base/16384")]
    #[case("pg_xact/0000")]
    #[case("pg_wal/000000010000000000000001")]
    #[case("pg_tblspc/16400/16384/16401")]
    #[case("pg_tblspc/16400/PG_15_202209061/pgsql_tmp/1")]
    #[case("1262")]
    fn other_files_are_no_relation_files(#[case] path: &str) {
        assert_eq!(RelationFile::parse(Path::new(path)), None);
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_give_the_same_report(
            damage in 0..HEAP.len(),
            cut in 0..PAGE,
            lengths in prop::collection::vec(1_usize..20_000, 1..40),
        ) {
            let mut file = [HEAP, &[0; PAGE], HEAP].concat();
            file[damage] ^= 0x40;
            file.truncate(file.len() - cut);
            let mut pieces = Vec::new();
            let mut rest = file.as_slice();
            for length in lengths {
                let (piece, after) = rest.split_at(length.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            prop_assert_eq!(report_of(MAIN, &pieces), report_of(MAIN, &[&file]));
        }

        #[test]
        fn no_path_makes_it_panic(path in ".*") {
            let _ = RelationFile::parse(Path::new(&path));
        }
    }
}
