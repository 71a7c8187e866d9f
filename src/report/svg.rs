//! Small pictures, inline in a page; each cell says what it is (`title`).

use super::markup::Text;
use crate::campaign::{Cell, bin_limits};
use crate::oracle::ErrorPlane;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Side of a cell of a grid.
const CELL: usize = 24;
/// Room for labels, to the left and below.
const MARGIN: usize = 46;
const BELOW: usize = 32;
/// Room for the name of an axis beside few cells.
const NAME: usize = 64;
/// Most cells of an error map's plane in a row or column; elements beyond share cells.
const MOST_CELLS: usize = 96;
/// Most planes of an error map that are drawn.
const MOST_PLANES: usize = 24;

/// How a cell looks.
#[derive(Clone, Copy)]
pub(super) enum Shade {
    /// From none, 0, to all, 1.
    Part(f64),
    /// Wrong.
    Bad,
}

/// Cells by the bins of two numbers, the first to the right, the second upwards.
pub(super) fn grid(
    names: [&str; 2],
    plane: &BTreeMap<u8, BTreeMap<u8, Cell>>,
    shade: &dyn Fn(&Cell) -> (Shade, String),
) -> String {
    let bins = |values: &mut dyn Iterator<Item = u8>| {
        let (low, high) = values.fold((u8::MAX, 0), |(low, high), bin| (low.min(bin), high.max(bin)));
        low.min(high)..=high
    };
    let xs = bins(&mut plane.keys().copied());
    let ys = bins(&mut plane.values().flat_map(|column| column.keys().copied()));
    let (wide, high) = ((xs.len() * CELL).max(NAME), (ys.len() * CELL).max(NAME));
    let (width, height) = (MARGIN + wide + 8, high + BELOW);
    let (top, bottom) = (high - ys.len() * CELL + 2, high + 2);
    let place = |x: u8, y: u8| (MARGIN + usize::from(x - xs.start()) * CELL, usize::from(ys.end() - y) * CELL + top);
    let mut svg = format!("<svg role=\"img\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">");
    let label = |bin: u8| {
        let [low, _] = bin_limits(bin);
        if low < 1024 { low.to_string() } else { format!("{}k", low / 1024) }
    };
    for y in ys.clone() {
        let (_, top) = place(*xs.start(), y);
        let _ = write!(svg, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", MARGIN - 4, top + 16, label(y));
    }
    for x in xs.clone() {
        let (left, _) = place(x, *ys.start());
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            left + CELL / 2,
            bottom + 12,
            label(x)
        );
    }
    let [x_name, y_name] = names;
    let _ = write!(svg, "<text x=\"{MARGIN}\" y=\"{}\">{}</text>", bottom + 26, Text(x_name));
    let _ = write!(svg, "<text x=\"10\" y=\"{bottom}\" transform=\"rotate(-90 10 {bottom})\">{}</text>", Text(y_name));
    for (&x, column) in plane {
        for (&y, cell) in column {
            let (left, top) = place(x, y);
            let (shade, text) = shade(cell);
            let [[x_low, x_high], [y_low, y_high]] = [bin_limits(x), bin_limits(y)];
            let title = format!("{x_name} {x_low} to {x_high}, {y_name} {y_low} to {y_high}: {text}");
            let side = CELL - 1;
            let at = format!("x=\"{left}\" y=\"{top}\" width=\"{side}\" height=\"{side}\"");
            match shade {
                Shade::Bad => {
                    let _ = write!(svg, "<rect class=\"bad\" {at}><title>{}</title></rect>", Text(title));
                }
                Shade::Part(part) => {
                    let part = part.clamp(0.0, 1.0);
                    let _ = write!(
                        svg,
                        "<g><title>{}</title><rect class=\"low\" {at}/><rect class=\"high\" {at} fill-opacity=\"{part:.3}\"/></g>",
                        Text(title)
                    );
                }
            }
        }
    }
    svg + "</svg>"
}

/// The elements of each step and token, query heads downwards and dimensions to the right: wrong, right, not judged.
///
/// Planes with a wrong element come first; where there are more than can be drawn, the rest is counted.
pub(super) fn error_map(planes: &[ErrorPlane]) -> String {
    let wrong = |plane: &ErrorPlane| plane.right.iter().flatten().filter(|right| **right == Some(false)).count();
    let mut order: Vec<&ErrorPlane> = planes.iter().collect();
    order.sort_by_key(|plane| wrong(plane) == 0);
    let mut text = String::new();
    for plane in order.iter().take(MOST_PLANES) {
        let (heads, dims) = (plane.right.len(), plane.right.first().map_or(0, Vec::len));
        let _ = writeln!(
            text,
            "<figure>{}<figcaption>step {}, token {}: {} of {} elements wrong; {heads} query heads down, {dims} dims across</figcaption></figure>",
            map(plane),
            plane.step + 1,
            plane.token,
            wrong(plane),
            heads * dims
        );
    }
    if let Some(rest) = order.get(MOST_PLANES..).filter(|rest| !rest.is_empty()) {
        let with = rest.iter().filter(|plane| wrong(plane) > 0).count();
        let _ = writeln!(text, "<p class=\"dim\">{} more tokens, {with} of them with wrong elements.</p>", rest.len());
    }
    text
}

fn map(plane: &ErrorPlane) -> String {
    let (heads, dims) = (plane.right.len(), plane.right.first().map_or(0, Vec::len));
    // Elements that share a cell: one if there is room.
    let (by_head, by_dim) = (heads.div_ceil(MOST_CELLS).max(1), dims.div_ceil(MOST_CELLS).max(1));
    let (rows, columns) = (heads.div_ceil(by_head), dims.div_ceil(by_dim));
    let side = if rows.max(columns) <= 24 { 12 } else { 5 };
    let (width, height) = (columns * side, rows * side);
    let mut svg = format!("<svg role=\"img\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">");
    for (row, heads) in plane.right.chunks(by_head).enumerate() {
        for column in 0..columns {
            let dims = column * by_dim..((column + 1) * by_dim).min(dims);
            let cells = || heads.iter().flat_map(|head| head.get(dims.clone()).unwrap_or_default());
            let class = if cells().any(|right| *right == Some(false)) {
                "bad"
            } else if cells().any(|right| *right == Some(true)) {
                "good"
            } else {
                "none"
            };
            let (x, y, side) = (column * side, row * side, side - 1);
            let head = row * by_head;
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\"><title>q_head {head}, dim {}</title></rect>",
                dims.start
            );
        }
    }
    svg + "</svg>"
}
