//! A chart whose axes are both logarithmic.

use super::{
    chart::{Series, short},
    plot::{Mark, Plot, points},
};

/// Lines; what is not above `floor` (more than 0) is drawn on it, as a ring. `floor_name` says what that means. `None` of none.
pub fn lines(
    series: &[Series],
    (x_name, y_name): (&str, &str),
    floor: f64,
    floor_name: &str,
) -> Option<String> {
    let (low, high) =
        points(series).fold((f64::MAX, 0.0f64), |(low, high), (x, _)| (low.min(x), high.max(x)));
    if low >= high || low <= 0.0 {
        return None;
    }
    let lowest = 10f64.powf(floor.max(1.0).log10().floor());
    let top = 10f64.powf(points(series).map(|(_, y)| y).fold(10.0 * lowest, f64::max).log10().ceil());
    let mut plot = Plot::new(420.0, 84.0, 210.0, 48.0);
    let (left, wide, tall, bottom) = (plot.left, plot.wide, plot.tall, plot.bottom());
    let at_x = |x: f64| left + (x / low).ln() / (high / low).ln() * wide;
    let height = |y: f64| bottom - (y / lowest).ln() / (top / lowest).ln() * tall;
    let at_y = |y: f64| height(y.max(floor));
    plot.band(at_y(floor), floor_name);
    let mut y = lowest;
    while y <= top * 1.001 {
        plot.row(height(y), &format!("{} ns", short(y)));
        y *= 10.0;
    }
    plot.columns(series, at_x, true);
    plot.names(x_name, y_name);
    let at = |(x, y): (f64, f64)| (at_x(x), at_y(y));
    for line in series {
        plot.line(line, at, |y| Mark {
            radius: 4,
            fill: if y > floor { line.colour } else { "none" },
            rim: true,
            says: format!("{y:.0} ns"),
        });
    }
    plot.ends(series, at);
    Some(plot.finish())
}
