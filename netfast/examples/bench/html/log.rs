//! A chart whose axes are both logarithmic.

use std::fmt::Write as _;

use super::{
    chart::{Series, count, open, short},
    escape,
};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 84.0;
const TOP: f64 = 14.0;
const RIGHT: f64 = 210.0;
const BOTTOM: f64 = 48.0;

/// Lines; what is not above `floor` (more than 0) is drawn on it, as a ring. `floor_name` says what that means. `None` of none.
pub fn lines(
    series: &[Series],
    (x_name, y_name): (&str, &str),
    floor: f64,
    floor_name: &str,
) -> Option<String> {
    let points = || series.iter().flat_map(|line| line.points.iter().copied());
    let (low, high) = points().fold((f64::MAX, 0.0f64), |(low, high), (x, _)| (low.min(x), high.max(x)));
    if low >= high || low <= 0.0 {
        return None;
    }
    let bottom = 10f64.powf(floor.max(1.0).log10().floor());
    let top = 10f64.powf(points().map(|(_, y)| y).fold(10.0 * bottom, f64::max).log10().ceil());
    let (wide, tall) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let at_x = |x: f64| LEFT + (x / low).ln() / (high / low).ln() * wide;
    let height = |y: f64| TOP + tall - (y / bottom).ln() / (top / bottom).ln() * tall;
    let at_y = |y: f64| height(y.max(floor));
    let mut svg = open(HEIGHT);
    let _ = write!(
        svg,
        "<rect class=\"band\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{wide}\" height=\"{:.1}\"/>\
         <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        at_y(floor),
        TOP + tall - at_y(floor),
        LEFT + 8.0,
        TOP + tall - 8.0,
        escape(floor_name)
    );
    let mut y = bottom;
    while y <= top * 1.001 {
        let at = height(y);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{} ns</text>",
            LEFT + wide,
            LEFT - 8.0,
            at + 4.0,
            short(y)
        );
        y *= 10.0;
    }
    let mut ticks: Vec<f64> = points().map(|(x, _)| x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for x in ticks {
        let at = at_x(x);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\
             <text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            TOP + tall,
            TOP + tall + 18.0,
            count(x)
        );
    }
    let _ = write!(
        svg,
        "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x_name}</text>\
         <text class=\"axis\" x=\"14\" y=\"{:.1}\" transform=\"rotate(-90 14 {:.1})\" text-anchor=\"middle\">{y_name}</text>",
        LEFT + wide / 2.0,
        HEIGHT - 8.0,
        TOP + tall / 2.0,
        TOP + tall / 2.0
    );
    for line in series {
        let colour = line.colour;
        let path: Vec<String> =
            line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", at_x(*x), at_y(*y))).collect();
        let _ = write!(svg, "<polyline class=\"line\" stroke=\"{colour}\" points=\"{}\"/>", path.join(" "));
        for (x, y) in &line.points {
            let fill = if *y > floor { colour } else { "none" };
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{fill}\" stroke=\"{colour}\"><title>{}: {y:.0} ns at {}</title></circle>",
                at_x(*x),
                at_y(*y),
                escape(&line.name),
                count(*x)
            );
        }
    }
    // Names at the lines' ends, moved apart.
    let mut labels: Vec<(f64, f64, &Series)> = series
        .iter()
        .filter_map(|line| line.points.last().map(|(x, y)| (at_y(*y), at_x(*x), line)))
        .collect();
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = TOP;
    for (at, x, line) in labels {
        let colour = line.colour;
        let at = at.max(free);
        free = at + 16.0;
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" style=\"fill:{colour}\">{}</text>",
            x + 10.0,
            at + 4.0,
            escape(&line.name)
        );
    }
    Some(svg + "</svg>")
}
