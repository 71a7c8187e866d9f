//! Thread-block clusters (PTX ISA, "Cluster of Cooperative Thread Arrays"): every block is a cluster of its own, so a
//! block's rank is 0 and the shared memory of rank 0 is its own.

use super::Lowerer;
use super::convert::push_mov;
use super::form::Form;
use crate::ptx::ast::Function;
use crate::ptx::error::Error;
use crate::ptx::op::{BarrierKind, CLUSTER_BARRIER, Op};

/// Refuses a kernel that asks for clusters of several blocks.
pub(super) fn check(lw: &Lowerer<'_>, function: &Function) -> Result<(), Error> {
    let size = function.directives.iter().find(|(name, _)| name == "reqnctapercluster");
    match size {
        Some((_, blocks)) if blocks.iter().any(|n| *n != 1) => {
            Err(Error::unsupported(lw.at, ".reqnctapercluster", "clusters of more than one block"))
        }
        _ => Ok(()),
    }
}

/// `mapa` and `getctarank`.
pub(super) fn address(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    form.has("shared::cluster");
    let ty = form.ty()?;
    form.done()?;
    if form.opcode() == "mapa" {
        let [d, a, _] = form.exactly()?;
        let a = lw.source(a, ty)?;
        let d = lw.destination(d, ty)?;
        return push_mov(lw, form, d, a);
    }
    let [d, a] = form.exactly()?;
    lw.source(a, ty)?;
    let d = lw.word_destination(d, crate::ptx::types::Type::U32)?;
    let a = lw.slots.constant32(0);
    lw.push(Op::Mov32 { d, a });
    Ok(())
}

/// `barrier.cluster.arrive` and `barrier.cluster.wait`, whose `barrier` and `cluster` have been taken.
pub(super) fn barrier(lw: &mut Lowerer<'_>, form: &mut Form<'_>) -> Result<(), Error> {
    let kind = form.choice(&[("arrive", BarrierKind::ClusterArrive), ("wait", BarrierKind::ClusterWait)]);
    let Some(kind) = kind else {
        return Err(form.unsupported("neither `.arrive` nor `.wait`"));
    };
    form.ignore(|m| matches!(m, "release" | "acquire" | "relaxed"));
    let aligned = form.has("aligned");
    form.done()?;
    let [] = form.exactly()?;
    let id = lw.slots.constant32(CLUSTER_BARRIER);
    lw.push(Op::Barrier { kind, id, count: None, aligned });
    Ok(())
}
