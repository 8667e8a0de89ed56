//! Nanoseconds a packet against the number of rules, as an SVG picture: both axes logarithmic.

use std::fmt::Write as _;

use super::Who;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 56.0;

/// Draws what was measured: who, how many rules, nanoseconds a packet.
pub fn draw(points: &[(Who, u32, f64)]) -> String {
    let ns = points.iter().map(|(.., ns)| *ns).filter(|ns| ns.is_finite());
    let low = 10f64.powf(ns.clone().fold(f64::MAX, f64::min).max(1.0).log10().floor());
    let high = 10f64.powf(ns.fold(10.0, f64::max).log10().ceil());
    let x = |rules: f64| LEFT + (rules.log10() - 1.0) / 4.0 * (WIDTH - LEFT - RIGHT);
    let y =
        |ns: f64| TOP + (high.log10() - ns.log10()) / (high.log10() - low.log10()) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"16\" fill=\"#222222\">Time of a packet that is forwarded and matches no rule</text>\n"
    );
    for rules in [10u32, 100, 1000, 10_000, 100_000] {
        let at = x(rules.into());
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#444444\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 20.0,
            thousands(rules.into()),
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#444444\">drop rules</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 12.0
    );
    let mut mark = low;
    while mark <= high * 1.01 {
        let at = y(mark);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#444444\">{} ns</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            thousands(mark as u64),
        );
        mark *= 10.0;
    }
    if let Some((.., ns)) = points.iter().find(|(who, ..)| *who == Who::Kernel) {
        let at = y(*ns);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#888888\" stroke-dasharray=\"5 4\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#666666\">without rules</text>",
            WIDTH - RIGHT,
            WIDTH - RIGHT + 8.0,
            at + 16.0,
        );
    }
    let lines = [
        (Who::Netfast, "netfast", "#0b6fb8", -8.0),
        (Who::NftLinear, "nft, rule by rule", "#c0392b", 4.0),
        (Who::NftSet, "nft set", "#2e8b57", 3.0),
    ];
    for (who, label, colour, lift) in lines {
        let line: Vec<(f64, f64)> = points
            .iter()
            .filter(|(whose, rules, ns)| *whose == who && *rules >= 10 && ns.is_finite())
            .map(|(_, rules, ns)| (x(f64::from(*rules)), y(*ns)))
            .collect();
        let path: Vec<String> = line.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
            path.join(" ")
        );
        for (x, y) in &line {
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>");
        }
        if let Some((x, y)) = line.last() {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{label}</text>",
                x + 10.0,
                y + lift
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// `10,000`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
