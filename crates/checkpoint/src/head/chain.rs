//! The order of a head's Linears, and which of them are another head's.

use super::error::HeadFileError;
use super::found::{Search, parent};
use super::layers::list;
use super::network::common_path;
use super::part::{Part, is_within, transposed};

/// More Linears than any head has whose order the names do not give.
const REORDERED_MAX: usize = 8;
/// Parts of the names of layers that are for training alone.
pub(super) const AUXILIARY: [&str; 3] = ["aux", "loss", "criterion"];
/// More Linears than a head and those beside it have.
const BRANCHED_MAX: usize = 64;

impl Search<'_> {
    /// True if each Linear takes what the one before returns, and the first one takes what a backbone has.
    pub fn is_chain(&self, linears: &[usize]) -> bool {
        linears
            .windows(2)
            .all(|pair| self.shape(pair[0]).1 == self.shape(pair[1]).0)
    }

    /// The order of the Linears, if their widths allow only one.
    pub fn only_order(&self, linears: &[usize]) -> Option<Vec<usize>> {
        if linears.len() > REORDERED_MAX {
            return None;
        }
        let mut orders = Vec::new();
        for &first in linears {
            if self.stands(self.shape(first).0) {
                self.extend(&[first], linears, &mut orders);
            }
        }
        (orders.len() == 1).then(|| orders.swap_remove(0))
    }

    /// Collects the chains of all `linears` that begin with `chain`, two at most.
    fn extend(&self, chain: &[usize], linears: &[usize], orders: &mut Vec<Vec<usize>>) {
        if chain.len() == linears.len() {
            orders.push(chain.to_vec());
        }
        let returned = chain.last().map_or(0, |last| self.shape(*last).1);
        for &next in linears {
            if orders.len() < 2 && !chain.contains(&next) && self.shape(next).0 == returned {
                self.extend(&[chain, &[next]].concat(), linears, orders);
            }
        }
    }

    /// The Linears of one branch, if the others are heads elsewhere.
    pub fn branch(&self, linears: &[usize]) -> Result<Vec<usize>, HeadFileError> {
        if linears.len() > BRANCHED_MAX {
            return Err(self.broken_chain(linears));
        }
        let convolutions = self.network.convolutions.iter().map(|c| c.part);
        let common = common_path(
            convolutions
                .chain(linears.iter().copied())
                .map(|index| self.parts[index].path),
        );
        let mut sets: Vec<Vec<usize>> = Vec::new();
        for &index in linears {
            let branch = branch_of(self.parts[index].path, &common);
            let (inside, outside): (Vec<usize>, Vec<usize>) = linears
                .iter()
                .copied()
                .partition(|other| branch_of(self.parts[*other].path, &common) == branch);
            for (set, rest) in [(&inside, &outside), (&outside, &inside)] {
                // What is left out must be a head of its own, not a layer whose width is wrong.
                let fits = self.is_head(set) && (self.is_head(rest) || self.is_auxiliary(rest));
                if fits && !sets.contains(set) {
                    sets.push(set.clone());
                }
            }
        }
        if !sets.iter().all(|set| self.is_auxiliary(set)) {
            sets.retain(|set| !self.is_auxiliary(set));
        }
        if sets.len() > 1
            && let Some(own) = self.own_classifier(linears, &sets)
        {
            return Ok(own);
        }
        match &sets[..] {
            [] => Err(self.broken_chain(linears)),
            [only] => Ok(only.clone()),
            several => {
                let firsts: Vec<&Part<'_>> = several.iter().map(|set| &self.parts[set[0]]).collect();
                Err(HeadFileError::SeveralHeads { heads: list(&firsts) })
            }
        }
    }

    /// The classifier beside `features`, if the other heads are beside it too. One around that network may be what its class
    /// uses instead.
    fn own_classifier(&self, linears: &[usize], sets: &[Vec<usize>]) -> Option<Vec<usize>> {
        let root = self.network.container.strip_suffix("features")?;
        let (own, root) = (format!("{root}classifier"), root.trim_end_matches('.'));
        let mut classifiers = sets.iter().filter(|set| self.are_within(set, &own));
        let classifier = classifiers.next()?;
        (classifiers.next().is_none() && self.are_within(linears, root)).then(|| classifier.clone())
    }

    fn are_within(&self, linears: &[usize], path: &str) -> bool {
        linears.iter().all(|index| is_within(self.parts[*index].path, path))
    }

    /// True if one of the parts is directly in the module at `path`.
    fn has_child(&self, parts: &[usize], path: &str) -> bool {
        parts.iter().any(|index| parent(self.parts[*index].path) == path)
    }

    /// True if the Linears follow each other from where a head may stand.
    fn is_head(&self, linears: &[usize]) -> bool {
        let first = linears.first().map(|first| self.shape(*first).0);
        first.is_some_and(|width| self.stands(width)) && self.is_chain(linears)
    }

    /// True if the names say that the Linears only help training.
    fn is_auxiliary(&self, linears: &[usize]) -> bool {
        linears
            .iter()
            .all(|index| AUXILIARY.iter().any(|mark| self.parts[*index].path.contains(mark)))
    }

    /// The Linears that were not chosen, and the norms beside them.
    pub fn others(&self, linears: &[usize], chosen: &[usize]) -> Vec<usize> {
        let mut others: Vec<usize> = linears
            .iter()
            .copied()
            .filter(|index| !chosen.contains(index))
            .collect();
        let beside = others.clone();
        for norm in self.norms(&[]) {
            let parent = parent(self.parts[norm].path);
            if !parent.is_empty() && self.has_child(&beside, parent) && !self.has_child(chosen, parent) {
                others.push(norm);
            }
        }
        others
    }

    pub fn broken_chain(&self, linears: &[usize]) -> HeadFileError {
        for pair in linears.windows(2) {
            let (first, second) = (&self.parts[pair[0]], &self.parts[pair[1]]);
            let ((_, returned), (taken, output)) = (self.shape(pair[0]), self.shape(pair[1]));
            if returned == taken {
                continue;
            }
            if output == returned
                && second.bias.is_none()
                && let Some(weight) = second.weight
            {
                return transposed(weight.entry());
            }
            return HeadFileError::Chain {
                first: first.describe(),
                returned,
                second: second.describe(),
                taken,
            };
        }
        let all: Vec<&Part<'_>> = linears.iter().map(|index| &self.parts[*index]).collect();
        HeadFileError::SeveralHeads { heads: list(&all) }
    }
}

/// The component after what all paths share.
fn branch_of<'p>(path: &'p str, common: &str) -> &'p str {
    let rest = path.strip_prefix(common).unwrap_or(path).trim_start_matches('.');
    rest.split('.').next().unwrap_or(rest)
}
