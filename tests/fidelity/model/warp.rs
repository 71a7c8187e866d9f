//! What lanes of a warp exchange.

use super::Name;
use crate::fidelity::forms::form::Form;

/// Results of every case of a warp form.
pub(super) fn expected(form: &Form, name: &Name<'_>, cases: &[Vec<u64>]) -> Option<Vec<Vec<Option<u64>>>> {
    if !["shfl", "vote", "match", "redux", "activemask", "elect"].contains(&name.opcode) {
        return None;
    }
    // Without `sync` among the modifiers, the name is that of a form in half a warp, and tells its opcode.
    let half = form.name.contains(" in half ");
    let lanes: Vec<usize> = (0..32).filter(|l| !half || l % 2 == 0).collect();
    let mut out = Vec::with_capacity(cases.len());
    for warp in cases.chunks(32) {
        for lane in 0..32 {
            out.push(if lanes.contains(&lane) {
                one(form, name, warp, &lanes, lane, half)?.into_iter().map(Some).collect()
            } else {
                vec![Some(0); form.outputs.len()]
            });
        }
    }
    Some(out)
}

fn one(form: &Form, name: &Name<'_>, warp: &[Vec<u64>], lanes: &[usize], lane: usize, half: bool) -> Option<Vec<u64>> {
    let own = &warp[lane];
    let value = |l: usize| warp[l][0];
    let set = |test: &dyn Fn(usize) -> bool| lanes.iter().filter(|l| test(**l)).fold(0u64, |bits, l| bits | 1 << l);
    let full = set(&|_| true);
    Some(match name.opcode {
        "shfl" => {
            let (b, c) = if half { (2, 0x1f) } else { (own[1] as usize & 31, own[2] as usize) };
            let (clamp, segment) = (c & 31, c >> 8 & 31);
            let max = (lane & segment) | (clamp & !segment);
            let min = lane & segment;
            let (source, inside) = match name.choice(&["up", "down", "bfly", "idx"])? {
                "up" => (lane.wrapping_sub(b), lane as i64 - b as i64 >= max as i64),
                "down" => (lane + b, lane + b <= max),
                "bfly" => (lane ^ b, lane ^ b <= max),
                _ => (min | (b & !segment), (min | (b & !segment)) <= max),
            };
            let source = if inside { source } else { lane };
            if half { vec![value(source)] } else { vec![value(source), u64::from(inside)] }
        }
        "vote" => {
            let negated = form.name.contains('!');
            let ayes = if half { set(&|l| value(l) >> 31 & 1 == 1) } else { set(&|l| (value(l) != 0) != negated) };
            vec![match name.choice(&["all", "any", "uni", "ballot"])? {
                "all" => u64::from(ayes == full),
                "any" => u64::from(ayes != 0),
                "uni" => u64::from(ayes == full || ayes == 0),
                _ => ayes,
            }]
        }
        "match" => {
            let same = set(&|l| value(l) == value(lane));
            if name.has("any") {
                vec![same]
            } else {
                vec![if same == full { full } else { 0 }, u64::from(same == full)]
            }
        }
        "redux" => {
            let signed = name.ty() == "s32";
            let key = |v: u64| if signed { i64::from(v as u32 as i32) } else { v as i64 };
            let values = || lanes.iter().map(|l| value(*l));
            let result = match name.choice(&["add", "min", "max", "and", "or", "xor"])? {
                "add" => values().sum(),
                "min" => values().min_by_key(|v| key(*v))?,
                "max" => values().max_by_key(|v| key(*v))?,
                "and" => values().reduce(|x, y| x & y)?,
                "or" => values().reduce(|x, y| x | y)?,
                _ => values().reduce(|x, y| x ^ y)?,
            };
            vec![result & 0xffff_ffff]
        }
        "activemask" => vec![full],
        // Which lane is elected is left open; the devices take the lowest.
        _ => vec![0, u64::from(lane == 0)],
    })
}
