//! The passes of interlaced pictures (Adam7).

/// The part of the picture that the pixels cover: all of it, or a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

/// Every `step_x`th column of every `step_y`th row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    pub left: u32,
    pub top: u32,
    pub step_x: u32,
    pub step_y: u32,
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// Left, top and the two steps of each pass.
const ADAM7: [[u32; 4]; 7] = [
    [0, 0, 8, 8],
    [4, 0, 8, 8],
    [0, 4, 4, 8],
    [2, 0, 4, 4],
    [0, 2, 2, 4],
    [1, 0, 2, 2],
    [0, 1, 1, 2],
];

/// Returns the passes that have pixels, at least one.
pub(super) fn of(width: u32, height: u32, interlaced: bool) -> Vec<Pass> {
    if !interlaced {
        return vec![Pass {
            left: 0,
            top: 0,
            step_x: 1,
            step_y: 1,
            width,
            height,
        }];
    }
    let passes = ADAM7.map(|[left, top, step_x, step_y]| Pass {
        left,
        top,
        step_x,
        step_y,
        width: width.saturating_sub(left).div_ceil(step_x),
        height: height.saturating_sub(top).div_ceil(step_y),
    });
    passes
        .into_iter()
        .filter(|pass| pass.width > 0 && pass.height > 0)
        .collect()
}
