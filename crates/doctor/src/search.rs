//! Which recipes are tried next.

use std::collections::{BTreeMap, BTreeSet};

use crate::space::{Recipe, Space};

/// Pictures on which a recipe is tried before it is tried on all.
const FIRST: usize = 6;
/// Recipes that go from the first pictures to all of them, in each round.
const FINALISTS: usize = 8;
/// How much less promising than the best a recipe may be on the first pictures, and still be tried on all.
const HOPELESS: f64 = 7.0;
/// Recipes around which others are tried in one round.
const LEADERS: usize = 2;
/// How much less promising than the best a recipe may be, and still have others tried around it.
const BEHIND: f64 = 6.0;
/// Colours that are tried with filters of every kind from the start: filters without antialiasing change pictures as much as
/// colours do.
const USUAL_COLOURS: usize = 8;
/// The recipes that are usual as a whole are tried from the start.
const USUAL_RECIPES: usize = 16;
/// A size is tried from the start if its pictures cost less than this part of the first one's.
const CHEAP: u32 = 10;
/// Pictures of 224x224 after which no further round begins, or their number for each picture if that is more: two minutes of a
/// whole VGG16 on two cores.
const BUDGET: f64 = 1000.0;
const BUDGET_OF_EACH: f64 = 25.0;
/// Rounds at most.
const ROUNDS_MAX: usize = 12;

/// A recipe to try on pictures, from the first on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The recipe.
    pub recipe: Recipe,
    /// The first picture.
    pub from: usize,
    /// The picture after the last.
    pub to: usize,
}

/// The search for the recipes that fit best: each part is varied around the best ones until nothing new turns up. A recipe is
/// tried on a few pictures first, and on the others if it is not hopeless.
#[derive(Debug)]
pub struct Search {
    pictures: usize,
    /// How many pictures each recipe was tried on.
    tried: BTreeMap<Recipe, usize>,
    /// Recipes around which a part was varied.
    varied: BTreeSet<(Recipe, Part)>,
    /// What waits for the first pictures' results.
    racing: Vec<Recipe>,
    rounds: usize,
    /// What was computed, in pictures of 224x224.
    spent: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Picture,
    Colour,
    Size,
}

impl Search {
    /// Begins a search with so many pictures, of which the first few should differ most.
    pub fn new(pictures: usize) -> Self {
        Self {
            pictures,
            tried: BTreeMap::new(),
            varied: BTreeSet::new(),
            racing: Vec::new(),
            rounds: 0,
            spent: 0.0,
        }
    }

    /// Returns the recipes that were tried on all pictures.
    pub fn tried(&self) -> impl Iterator<Item = Recipe> + '_ {
        let whole = self.tried.iter().filter(|(_, pictures)| **pictures == self.pictures);
        whole.map(|(recipe, _)| *recipe)
    }

    /// Returns the number of recipes that were tried.
    pub fn count(&self) -> usize {
        self.tried.len()
    }

    /// Returns what to try next; empty when the search is over. `promise` returns how promising a recipe is by so many
    /// pictures, from the first on; `is_possible` whether the file can be fed with it.
    pub fn next(
        &mut self,
        space: &Space,
        promise: impl Fn(Recipe, usize) -> f64,
        is_possible: impl Fn(Recipe) -> bool,
    ) -> Vec<Trial> {
        let trials = self.next_trials(space, promise, is_possible);
        for trial in &trials {
            self.spent += (trial.to - trial.from) as f64 * space.cost(trial.recipe);
        }
        trials
    }

    fn next_trials(
        &mut self,
        space: &Space,
        promise: impl Fn(Recipe, usize) -> f64,
        is_possible: impl Fn(Recipe) -> bool,
    ) -> Vec<Trial> {
        let racing = std::mem::take(&mut self.racing);
        let finalists = self.finalists(racing, &promise);
        if !finalists.is_empty() {
            return finalists;
        }
        let budget = BUDGET.max(BUDGET_OF_EACH * self.pictures as f64);
        while self.rounds < ROUNDS_MAX && self.spent < budget {
            self.rounds += 1;
            let wanted = match self.rounds {
                1 => first_round(space),
                _ => self.around_the_best(space, &promise),
            };
            let trials = self.fresh(wanted, &is_possible);
            if !trials.is_empty() {
                return trials;
            }
        }
        Vec::new()
    }

    /// Returns trials of recipes that were not tried, on the first pictures.
    fn fresh(&mut self, wanted: Vec<Recipe>, is_possible: impl Fn(Recipe) -> bool) -> Vec<Trial> {
        let to = FIRST.min(self.pictures);
        let mut trials = Vec::new();
        for recipe in wanted {
            if !is_possible(recipe) || self.tried.contains_key(&recipe) {
                continue;
            }
            self.tried.insert(recipe, to);
            trials.push(Trial { recipe, from: 0, to });
            if to < self.pictures {
                self.racing.push(recipe);
            }
        }
        trials
    }

    fn finalists(&mut self, racing: Vec<Recipe>, promise: impl Fn(Recipe, usize) -> f64) -> Vec<Trial> {
        let first = FIRST.min(self.pictures);
        let best = self.tried.keys().map(|recipe| promise(*recipe, first));
        let best = best.fold(f64::MIN, f64::max);
        let mut ranked: Vec<(f64, Recipe)> = Vec::new();
        for recipe in racing {
            ranked.push((promise(recipe, first), recipe));
        }
        ranked.retain(|(promise, _)| *promise >= best - HOPELESS);
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranked.truncate(FINALISTS);
        let mut trials = Vec::new();
        for (_, recipe) in ranked {
            self.tried.insert(recipe, self.pictures);
            trials.push(Trial {
                recipe,
                from: first,
                to: self.pictures,
            });
        }
        trials
    }

    /// Returns what differs from the most promising recipes in one part, the parts that matter most first.
    fn around_the_best(&mut self, space: &Space, promise: impl Fn(Recipe, usize) -> f64) -> Vec<Recipe> {
        let mut ranked: Vec<(f64, Recipe)> = Vec::new();
        for recipe in self.tried() {
            ranked.push((promise(recipe, self.pictures), recipe));
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranked.truncate(LEADERS);
        let best = ranked.first().map_or(f64::MIN, |(promise, _)| *promise);
        ranked.retain(|(promise, _)| *promise >= best - BEHIND);
        let mut wanted = Vec::new();
        for part in [Part::Picture, Part::Colour, Part::Size] {
            for (rank, &(_, recipe)) in ranked.iter().enumerate() {
                // Sizes are many and cost most.
                if (part != Part::Size || rank == 0) && self.varied.insert((recipe, part)) {
                    vary(space, recipe, part, &mut wanted);
                }
            }
            wanted.retain(|recipe| !self.tried.contains_key(recipe));
            if !wanted.is_empty() {
                break;
            }
        }
        wanted
    }
}

/// The usual recipes; all colours, at the usual size and at those that cost little; the usual colours with other kinds of filters,
/// too.
fn first_round(space: &Space) -> Vec<Recipe> {
    let area = |size: usize| {
        let [height, width] = space.sizes[size].0;
        height * width
    };
    let mut wanted: Vec<Recipe> = space.declared().into_iter().collect();
    wanted.extend(usual(space));
    for size in 0..space.sizes.len() {
        if size > 0 && area(size) * CHEAP >= area(0) {
            continue;
        }
        for filter in 0..space.filters.len() {
            let colours = match filter {
                0 => space.colours.len(),
                _ if space.is_first_of_its_kind(filter) => USUAL_COLOURS.min(space.colours.len()),
                _ => 0,
            };
            for colour in 0..colours {
                wanted.push(Recipe {
                    size,
                    geometry: 0,
                    filter,
                    colour,
                });
            }
        }
    }
    wanted
}

/// The most usual recipes of the usual size.
fn usual(space: &Space) -> Vec<Recipe> {
    let mut recipes = Vec::new();
    if !space.sizes.is_empty() {
        for colour in 0..space.colours.len() {
            let likeliest = Recipe {
                size: 0,
                geometry: 0,
                filter: 0,
                colour,
            };
            vary(space, likeliest, Part::Picture, &mut recipes);
        }
    }
    recipes.sort_by(|a, b| space.usual(*b).total_cmp(&space.usual(*a)));
    recipes.truncate(USUAL_RECIPES);
    recipes
}

fn vary(space: &Space, around: Recipe, part: Part, wanted: &mut Vec<Recipe>) {
    if around == Recipe::DECLARED {
        return;
    }
    match part {
        Part::Picture => {
            for geometry in 0..space.geometries.len() {
                for filter in 0..space.filters.len() {
                    wanted.push(Recipe {
                        geometry,
                        filter,
                        ..around
                    });
                }
            }
        }
        Part::Colour => wanted.extend((0..space.colours.len()).map(|colour| Recipe { colour, ..around })),
        Part::Size => wanted.extend((0..space.sizes.len()).map(|size| Recipe { size, ..around })),
    }
}
