//! Curves as an SVG document: panels one below the other, over one time.

use std::fmt::Write as _;

/// One panel.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What is shown, with its unit.
    pub title: String,
    /// The curves: a name and points of (seconds, value).
    pub curves: Vec<(String, Vec<(f64, f64)>)>,
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 130.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 26.0;
const GAP: f64 = 34.0;
/// Points of one curve that are drawn at most: one for every second pixel.
const MOST: usize = 440;

const COLOURS: [&str; 10] =
    ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999", "#ee7733", "#009988", "#332288"];

/// Draws panels over `seconds`; `bands` are times that are shaded, each with what it was.
pub fn draw(panels: &[Panel], bands: &[(f64, f64, String)], begin: f64, end: f64) -> String {
    let total = panels.len() as f64 * (HEIGHT + GAP) + TOP + 20.0;
    let x = |at: f64| LEFT + (at - begin) / (end - begin).max(1.0) * (WIDTH - LEFT - 20.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {total:.0}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let top = TOP + number as f64 * (HEIGHT + GAP);
        let most = panel.curves.iter().flat_map(|(_, points)| points).map(|(_, value)| *value).fold(0.0, f64::max);
        let scale = nice(most);
        let y = |value: f64| top + HEIGHT - value / scale * HEIGHT;
        for (from, to, what) in bands {
            let (from, to) = (x(from.max(begin)), x(to.min(end)));
            let _ = writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{HEIGHT}\" fill=\"#f3e3e3\"><title>{}</title></rect>",
                (to - from).max(1.0),
                escaped(what)
            );
        }
        let _ =
            writeln!(svg, "<text x=\"{LEFT}\" y=\"{:.1}\" fill=\"#222\">{}</text>", top - 6.0, escaped(&panel.title));
        for part in 0..=2 {
            let value = scale * f64::from(part) / 2.0;
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{2:.1}\" y2=\"{2:.1}\" stroke=\"#ddd\"/><text x=\"{1:.0}\" y=\"{3:.1}\" \
                 text-anchor=\"end\" fill=\"#555\">{4}</text>",
                WIDTH - 20.0,
                LEFT - 6.0,
                y(value),
                y(value) + 4.0,
                number_text(value)
            );
        }
        for (n, (name, points)) in panel.curves.iter().enumerate() {
            let every = points.len().div_ceil(MOST).max(1);
            let drawn = points.chunks(every).map(|chunk| {
                // The highest of each piece: a peak is never hidden.
                let value = chunk.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
                (x(chunk[0].0).round(), y(value).round())
            });
            let path: Vec<String> = corners(drawn).iter().map(|(x, y)| format!("{x},{y}")).collect();
            let colour = COLOURS[n % COLOURS.len()];
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1\"><title>{}</title></polyline>",
                path.join(" "),
                escaped(name)
            );
        }
    }
    let bottom = TOP + panels.len() as f64 * (HEIGHT + GAP) - GAP + 14.0;
    for part in 0..=6 {
        let at = begin + (end - begin) * f64::from(part) / 6.0;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{bottom:.1}\" text-anchor=\"middle\" fill=\"#555\">{:.0} s</text>",
            x(at),
            at
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Without the points between two of the same height.
fn corners(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut left: Vec<(f64, f64)> = Vec::new();
    for point in points {
        if let [.., (_, before), (_, last)] = left[..]
            && before == last
            && last == point.1
        {
            left.pop();
        }
        left.push(point);
    }
    left
}

/// The next of 1, 2, 5, 10, 20, .. that is not below.
fn nice(most: f64) -> f64 {
    let mut scale = 1.0;
    loop {
        for factor in [1.0, 2.0, 5.0] {
            if scale * factor >= most {
                return scale * factor;
            }
        }
        scale *= 10.0;
    }
}

fn number_text(value: f64) -> String {
    if value >= 10_000.0 { format!("{:.0} k", value / 1000.0) } else { format!("{value:.0}") }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_holds_its_curves_and_stays_small() {
        let points = (0..20_000).map(|at| (f64::from(at), f64::from(at % 100))).collect();
        let panel = Panel { title: "a < b".into(), curves: vec![("x".into(), points)] };
        let svg = draw(&[panel], &[(10.0, 20.0, "cut".into())], 0.0, 20_000.0);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("a &lt; b"));
        assert!(svg.len() < 10_000, "{}", svg.len());
        let level = [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (3.0, 2.0), (4.0, 2.0)];
        assert_eq!(corners(level.into_iter()), [(0.0, 1.0), (2.0, 1.0), (3.0, 2.0), (4.0, 2.0)]);
        assert_eq!(nice(101.0), 200.0);
    }
}
