//! Charts as SVG.

use std::fmt::Write as _;

use super::{
    escape,
    plot::{Mark, Plot, points},
};

/// Width of all pictures.
pub const WIDTH: f64 = 860.0;
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
    let (low, high) =
        points(series).fold((f64::MAX, f64::MIN), |(low, high), (x, _)| (low.min(x), high.max(x)));
    let most = points(series).map(|(_, y)| y).fold(0.0, f64::max);
    if series.is_empty() || low >= high || most <= 0.0 {
        return None;
    }
    let step = step(most);
    let top = (most / step).ceil() * step;
    let mut plot = Plot::new(360.0, 64.0, 190.0, 46.0);
    let (left, wide, tall, bottom) = (plot.left, plot.wide, plot.tall, plot.bottom());
    let at_x = |x: f64| left + (x.max(1.0) / low.max(1.0)).ln() / (high / low.max(1.0)).ln() * wide;
    let at_y = |y: f64| bottom - y.max(0.0) / top * tall;
    let mut y = 0.0;
    while y <= top * 1.001 {
        plot.row(at_y(y), &short(y));
        y += step;
    }
    plot.columns(series, at_x, false);
    plot.names(x_name, y_name);
    for line in series {
        plot.line(
            line,
            |(x, y)| (at_x(x), at_y(y)),
            |y| Mark { radius: 3, fill: line.colour, rim: false, says: short(y) },
        );
    }
    plot.ends(series, |(_, y)| (left + wide, at_y(y)));
    Some(plot.finish())
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
