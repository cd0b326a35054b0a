//! One list of a head's versions from the directories of several backbones.
//!
//! A head that moves to another backbone leaves its older versions in the directory of the one before; their numbers and
//! times increase together. A head of the same name that another server stored on a backbone that this server has now, too,
//! has a history of its own. The version that was stored last is live, so of the other histories only versions with lower
//! numbers are kept.

use std::collections::BTreeMap;

use headswap_heads::{HeadInfo, HeadName};

/// Returns the versions of all heads by name and version, each number once.
pub(super) fn merged(listed: Vec<HeadInfo>) -> Vec<HeadInfo> {
    let mut heads: BTreeMap<HeadName, Vec<HeadInfo>> = BTreeMap::new();
    for info in listed {
        heads.entry(info.name.clone()).or_default().push(info);
    }
    let mut all = Vec::new();
    for versions in heads.into_values() {
        all.extend(of_head(versions));
    }
    all
}

fn of_head(mut versions: Vec<HeadInfo>) -> Vec<HeadInfo> {
    versions.sort_by_key(|info| (info.version, info.created_unix_us, std::cmp::Reverse(info.backbone)));
    let is_of_one = versions.windows(2).all(|pair| pair[0].backbone == pair[1].backbone);
    let newest = versions.iter().max_by_key(|info| (info.created_unix_us, info.version));
    let Some(live) = newest.map(|info| info.version).filter(|_| !is_of_one) else {
        return versions;
    };
    let mut kept: Vec<HeadInfo> = Vec::new();
    for info in versions {
        if info.version > live {
            warn(&info);
            continue;
        }
        if let Some(older) = kept.pop_if(|before| before.version == info.version) {
            warn(&older);
        }
        kept.push(info);
    }
    kept
}

fn warn(info: &HeadInfo) {
    tracing::warn!(
        head = %info.name,
        version = info.version,
        "a stored version was skipped: a newer one of the same head is stored for another backbone"
    );
}

#[cfg(test)]
mod tests {
    use headswap_checkpoint::{HostTensor, Parameters};
    use headswap_heads::HeadWeights;
    use headswap_spec::{LAST_BIAS, LAST_WEIGHT, Preset};
    use std::sync::Arc;

    use super::*;

    fn info((backbone, version, created_unix_us): (usize, u64, u64)) -> HeadInfo {
        let mut parameters = Parameters::new();
        for (name, shape) in [(LAST_WEIGHT, vec![1, 1]), (LAST_BIAS, vec![1])] {
            parameters.insert(name.into(), Arc::new(HostTensor::new(shape, vec![1.0])));
        }
        let weights = HeadWeights::new(parameters, Vec::new(), Preset::Torchvision.preprocessing());
        let name = HeadName::parse("cats").unwrap();
        HeadInfo {
            backbone,
            ..HeadInfo::of(&weights, name, version, BTreeMap::new(), created_unix_us)
        }
    }

    /// Backbones and numbers of the versions that are kept, of versions with a backbone, a number and a time.
    fn check(versions: &[(usize, u64, u64)], expected: &[(usize, u64)]) {
        let kept = merged(versions.iter().map(|version| info(*version)).collect());
        let kept: Vec<(usize, u64)> = kept.iter().map(|info| (info.backbone, info.version)).collect();
        assert_eq!(kept, expected, "{versions:?}");
    }

    #[test]
    fn a_head_that_moved_has_one_history() {
        check(&[(0, 1, 10), (0, 3, 30), (1, 2, 20)], &[(0, 1), (1, 2), (0, 3)]);
    }

    #[test]
    fn the_version_that_was_stored_last_is_live() {
        check(&[(0, 1, 40), (0, 2, 50), (1, 2, 10), (1, 9, 30)], &[(0, 1), (0, 2)]);
        check(
            &[(0, 1, 5), (0, 2, 6), (1, 2, 10), (1, 9, 30)],
            &[(0, 1), (1, 2), (1, 9)],
        );
    }

    /// A clock that was set back changes nothing there.
    #[test]
    fn one_backbones_versions_are_all_kept() {
        check(&[(0, 1, 30), (0, 2, 20), (0, 3, 10)], &[(0, 1), (0, 2), (0, 3)]);
    }
}
