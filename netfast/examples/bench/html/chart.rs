//! Charts as SVG.

use std::fmt::Write as _;

use super::escape;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 14.0;
const RIGHT: f64 = 190.0;
const BOTTOM: f64 = 46.0;
/// Colours of lines, in turn; told apart by people with colour blindness, too.
const COLOURS: [&str; 8] =
    ["#6b7280", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31"];

/// A line.
pub struct Series {
    /// What it is of.
    pub name: String,
    /// Its colour.
    pub colour: &'static str,
    /// Points by their x.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// Sorts the points. Lines of the same number have the same colour in all charts.
    pub fn new(number: usize, name: &str, mut points: Vec<(f64, f64)>) -> Self {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { name: name.to_owned(), colour: COLOURS[number % COLOURS.len()], points }
    }
}

/// A bar.
pub struct Bar {
    /// What it is of.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// Whether it is netfast's.
    pub ours: bool,
}

/// A round number of which some four make up `most`.
fn step(most: f64) -> f64 {
    let raw = (most / 4.0).max(1e-9);
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= raw)
        .unwrap_or(raw)
}

/// `12`, `0.25`, `32k`, `1M`.
pub fn short(value: f64) -> String {
    let trim = |text: String| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    if value >= 1e6 {
        trim(format!("{:.1}", value / 1e6)) + "M"
    } else if value >= 1e3 {
        trim(format!("{:.1}", value / 1e3)) + "k"
    } else {
        trim(format!("{value:.2}"))
    }
}

/// A number of things: powers of two as people call them.
pub fn count(value: f64) -> String {
    let whole = value as u64;
    match whole {
        0..1024 => short(value),
        _ if whole.is_power_of_two() && whole < 1 << 20 => format!("{}k", whole >> 10),
        _ if whole.is_power_of_two() => format!("{}M", whole >> 20),
        _ => short(value),
    }
}

/// Lines over a logarithmic x axis; `None` of none.
pub fn lines(series: &[Series], x_name: &str, y_name: &str) -> Option<String> {
    let points = || series.iter().flat_map(|line| line.points.iter().copied());
    let (low, high) = points().fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(x), high.max(x)));
    let most = points().map(|(_, y)| y).fold(0.0, f64::max);
    if series.is_empty() || low >= high || most <= 0.0 {
        return None;
    }
    let step = step(most);
    let top = (most / step).ceil() * step;
    let (wide, tall) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let at_x = |x: f64| LEFT + (x.max(1.0) / low.max(1.0)).ln() / (high / low.max(1.0)).ln() * wide;
    let at_y = |y: f64| TOP + tall - y.max(0.0) / top * tall;
    let mut svg = open(HEIGHT);
    let mut y = 0.0;
    while y <= top * 1.001 {
        let at = at_y(y);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT + wide,
            LEFT - 8.0,
            at + 4.0,
            short(y)
        );
        y += step;
    }
    let mut ticks: Vec<f64> = points().map(|(x, _)| x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for x in ticks {
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            at_x(x),
            TOP + tall + 18.0,
            count(x)
        );
    }
    let _ = write!(
        svg,
        "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x_name}</text>\
         <text class=\"axis\" x=\"14\" y=\"{:.1}\" transform=\"rotate(-90 14 {:.1})\" text-anchor=\"middle\">{y_name}</text>",
        LEFT + wide / 2.0,
        HEIGHT - 6.0,
        TOP + tall / 2.0,
        TOP + tall / 2.0
    );
    for line in series {
        let colour = line.colour;
        let path: Vec<String> =
            line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y))).collect();
        let _ = write!(svg, "<polyline class=\"line\" stroke=\"{colour}\" points=\"{}\"/>", path.join(" "));
        for (x, y) in &line.points {
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"><title>{}: {} at {}</title></circle>",
                at_x(*x),
                at_y(*y),
                escape(&line.name),
                short(*y),
                count(*x)
            );
        }
    }
    // Names at the lines' ends, moved apart.
    let mut labels: Vec<(f64, &Series)> =
        series.iter().filter_map(|line| Some((at_y(line.points.last()?.1), line))).collect();
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = TOP;
    for (at, line) in labels {
        let colour = line.colour;
        let at = at.max(free);
        free = at + 16.0;
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" style=\"fill:{colour}\">{}</text>",
            LEFT + wide + 10.0,
            at + 4.0,
            escape(&line.name)
        );
    }
    Some(svg + "</svg>")
}

/// Bars that lie; `None` of none.
pub fn bars(bars: &[Bar], unit: &str) -> Option<String> {
    const ROW: f64 = 24.0;
    const NAMES: f64 = 170.0;
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let wide = WIDTH - NAMES - 110.0;
    let mut svg = open(ROW * bars.len() as f64 + 8.0);
    for (number, bar) in bars.iter().enumerate() {
        let y = 4.0 + ROW * number as f64;
        let length = (bar.value / most * wide).max(1.0);
        let _ = write!(
            svg,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{}\" x=\"{NAMES}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{} {unit}</text>",
            NAMES - 8.0,
            y + 15.0,
            escape(&bar.name),
            if bar.ours { "ours" } else { "theirs" },
            y + 3.0,
            ROW - 7.0,
            NAMES + length + 6.0,
            y + 15.0,
            short(bar.value)
        );
    }
    Some(svg + "</svg>")
}

/// The beginning of a picture.
pub fn open(height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">")
}
