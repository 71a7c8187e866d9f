//! What a kernel claims, said in code.

use super::manifest::{Lse, Manifest};
use crate::bound::{Contract, LseBase};
use crate::case::{Domain, Relation};
use std::collections::BTreeMap;

/// What a kernel claims: the cases it supports and what is known of its arithmetic. What a `kernel.toml` says beside how to
/// launch it.
///
/// ```
/// use attnfuzz::backend::Claim;
/// use attnfuzz::bound::{Contract, LseBase};
/// use attnfuzz::case::Domain;
///
/// let domain = Domain { head_dim: [64, 128].into(), past_len: (0..=4096).into(), ..Domain::default() };
/// let claim = Claim::from(domain).numerics(Contract::preset("online")?).lse(LseBase::E);
/// # assert_eq!(claim.lse, Some(LseBase::E));
/// # Ok::<(), attnfuzz::bound::UnknownPreset>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Claim {
    /// The cases it supports.
    pub domain: Domain,
    /// What it promises about its arithmetic; by default as good as nothing.
    pub numerics: Contract,
    /// Base of the log-sum-exps that it returns; nothing if it returns none.
    pub lse: Option<LseBase>,
    /// Relations that hold to the bit because of how it orders its operations.
    pub exact_relations: Vec<Relation>,
}

impl From<Domain> for Claim {
    fn from(domain: Domain) -> Self {
        Self { domain, numerics: Contract::default(), lse: None, exact_relations: Vec::new() }
    }
}

impl Claim {
    /// With this contract.
    #[must_use]
    pub fn numerics(self, numerics: Contract) -> Self {
        Self { numerics, ..self }
    }

    /// With log-sum-exps to this base.
    #[must_use]
    pub fn lse(self, base: LseBase) -> Self {
        Self { lse: Some(base), ..self }
    }

    /// With relations that hold to the bit.
    #[must_use]
    pub fn exact_relations(self, relations: impl IntoIterator<Item = Relation>) -> Self {
        Self { exact_relations: relations.into_iter().collect(), ..self }
    }

    /// The manifest of a kernel that is launched by somebody else.
    pub(super) fn into_manifest(self, name: &str) -> Manifest {
        let Self { domain, numerics, lse, exact_relations } = self;
        Manifest {
            name: name.into(),
            summary: String::new(),
            source: None,
            ptx: None,
            cubin: None,
            compile: None,
            defines: Vec::new(),
            domain,
            numerics,
            numerics_stated: true,
            layouts: BTreeMap::new(),
            buffers: Vec::new(),
            exact_relations,
            lse: lse.map(|base| Lse { base }),
            workspaces: Vec::new(),
            launches: Vec::new(),
            v_pages: false,
        }
    }
}
