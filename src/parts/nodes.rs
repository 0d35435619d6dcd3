//! Which ranks' shards lie on which storage node.

use std::path::Path;

use crate::error::{Error, Result, Tried, Usage};
use crate::regular_file;
use crate::run::Run;

/// Nodes, and the ranks whose shards each has. None where it does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes(Vec<(String, Vec<u32>)>);

impl Nodes {
    /// By name, with the ranks of each in any order.
    ///
    /// # Errors
    /// A name is no host's, or twice there, or has no ranks.
    pub fn new(mut nodes: Vec<(String, Vec<u32>)>) -> std::result::Result<Nodes, Usage> {
        for (i, (name, _)) in nodes.iter().enumerate() {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if name.is_empty() || name.starts_with('-') || !name.chars().all(is_plain) {
                return Err(Usage(format!("'{name}' is no name of a node")));
            }
            if nodes[..i].iter().any(|(other, _)| other == name) {
                return Err(Usage(format!("node {name} is there twice")));
            }
        }
        for (name, ranks) in &mut nodes {
            ranks.sort_unstable();
            if ranks.is_empty() {
                return Err(Usage(format!("node {name} has no ranks")));
            }
        }
        Ok(Nodes(nodes))
    }

    /// Reads a file of lines, each a node and its ranks, as `n1 0-3,8`.
    ///
    /// # Errors
    /// It cannot be read, or a line is none.
    pub fn read(path: &Path) -> Result<Nodes> {
        let bytes = regular_file::read(path).tried("read", path)?;
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let node = |(number, line): (usize, &str)| {
            let what = || format!("{}: line {number} is no node and its ranks, as n1 0-3,8", path.display());
            let (name, ranks) = line.split_once(char::is_whitespace).ok_or_else(what)?;
            Ok((name.to_owned(), parsed(ranks).ok_or_else(what)?))
        };
        let nodes: std::result::Result<Vec<_>, String> = lines.map(node).collect();
        let nodes = nodes.map_err(|what| Error::from(Usage(what)))?;
        let told = |e: Usage| Error::from(Usage(format!("{}: {}", path.display(), e.0)));
        if nodes.is_empty() {
            return Err(told(Usage("there is no node".to_owned())));
        }
        Nodes::new(nodes).map_err(told)
    }

    pub(crate) fn all(&self) -> &[(String, Vec<u32>)] {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks that each rank of a run is on one node.
    ///
    /// # Errors
    /// One is on none or on several, or there is no such rank.
    pub(crate) fn check(&self, run: &Run) -> Result<()> {
        let mut named: Vec<u32> = self.0.iter().flat_map(|(_, ranks)| ranks).copied().collect();
        named.sort_unstable();
        let all = run.ranks();
        if self.is_empty() || named.iter().copied().eq(all.clone()) {
            return Ok(());
        }
        let twice = named.windows(2).find(|w| w[0] == w[1]).map(|w| format!("rank {} is on two nodes", w[0]));
        let beyond =
            named.last().filter(|rank| !all.contains(rank)).map(|rank| format!("there is no rank {rank}"));
        let missing =
            all.clone().find(|rank| !named.contains(rank)).map(|rank| format!("rank {rank} is on no node"));
        let what = twice.or(beyond).or(missing).unwrap_or_default();
        Err(Usage(format!("--by-node: {what}; the run has ranks 0 to {}", all.end.saturating_sub(1))).into())
    }
}

/// Numbers and ranges of them.
fn parsed(text: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for word in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty()) {
        let (from, to) = word.split_once('-').unwrap_or((word, word));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        // No run has so many ranks.
        if to < from || to - from >= 1 << 20 {
            return None;
        }
        all.extend(from..=to);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_nodes_and_their_ranks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("map");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Nodes::read(&path)
        };
        let nodes = read("# storage\nstore-1.a 0-2, 7\n\n  store2\t3\n").unwrap();
        assert_eq!(nodes.all(), [("store-1.a".to_owned(), vec![0, 1, 2, 7]), ("store2".to_owned(), vec![3])]);
        for (text, what) in [
            ("n1 0\nn2", "line 2 is no node"),
            ("n1 0-x", "line 1 is no node"),
            ("n1 3-2", "line 1 is no node"),
            ("n1 0-4294967295", "line 1 is no node"),
            ("n1 0\nn1 1", "node n1 is there twice"),
            ("n1 ,", "node n1 has no ranks"),
            ("$(id) 0", "no name of a node"),
            ("--x 0", "no name of a node"),
            ("", "there is no node"),
        ] {
            let e = read(text).unwrap_err().to_string();
            assert!(e.contains(what), "{text}: {e}");
        }
    }
}
