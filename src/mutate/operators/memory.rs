//! Loads, stores, atomics, shuffles.

use super::Edits;
use crate::mutate::liveness::Names;
use crate::ptx::{Instruction, Operand};

pub(super) fn edits(edits: &mut Edits<'_>, names: &Names) {
    match edits.opcode() {
        "st" if !edits.has("param") => {
            edits.push("drop-store", "", "");
            access(edits, 0, 1);
        }
        "ld" | "ldu" if !edits.has("param") => access(edits, 1, 0),
        "red" => edits.push("drop-store", "", ""),
        "atom" => {
            let operation = edits.modifier(&["add", "min", "max", "and", "or", "xor", "inc", "dec"]);
            if let Some(operation) = operation {
                let ty = edits.ty();
                let bits = ty.trim_start_matches(|c: char| c.is_ascii_alphabetic());
                let mut exchange = edits.with_modifier(operation, "exch");
                if let Some(last) = exchange.modifiers.last_mut() {
                    *last = format!("b{bits}");
                }
                edits.push("atomic", format!("{operation}-exch"), exchange);
            }
        }
        "shfl" => shuffle(edits, names),
        _ => {}
    }
}

/// A load or store with its address and values at these operands.
fn access(edits: &mut Edits<'_>, address: usize, values: usize) {
    let bits: i64 = edits.ty().trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse().unwrap_or(0);
    let (address_operand, value) = match (edits.operands().get(address), edits.operands().get(values)) {
        (Some(address), Some(value)) => (address.clone(), value.clone()),
        _ => return,
    };
    if let (Operand::Address { base, offset }, 8..) = (address_operand, bits) {
        let bytes = bits / 8;
        for (what, offset) in [("more", offset.wrapping_add(bytes)), ("less", offset.wrapping_sub(bytes))] {
            let moved = edits.with_operand(address, Operand::Address { base: base.clone(), offset });
            edits.push("offset", what, moved);
        }
    }
    if let Operand::Vector(mut items) = value {
        items.reverse();
        edits.push("offset", "reversed", edits.with_operand(values, Operand::Vector(items)));
    }
}

fn shuffle(edits: &mut Edits<'_>, names: &Names) {
    let Some(mode) = edits.modifier(&["bfly", "down", "up", "idx"]) else {
        return;
    };
    let other = match mode {
        "bfly" => "down",
        "down" => "up",
        "up" => "down",
        _ => "bfly",
    };
    edits.push("shuffle-mode", format!("{mode}-{other}"), edits.with_modifier(mode, other));
    let Some(distance) = edits.operands().get(2).and_then(|operand| names.integer(operand)) else {
        return;
    };
    let changed = |distance: u64| -> Instruction { edits.with_operand(2, Operand::Int(distance)) };
    let mut variants = Vec::new();
    if distance >= 1 && mode != "idx" {
        variants.push(("half", changed(distance / 2)));
    }
    if (1..16).contains(&distance) && mode != "idx" {
        variants.push(("double", changed(distance * 2)));
    }
    for (what, instruction) in variants {
        edits.push("shuffle-distance", what, instruction);
    }
}
