//! Random expressions over given columns.

use crate::case::{Arithmetic, Compare, Expr, Named, Type, Value};
use crate::dice::Dice;
use crate::generate::Style;

const COMPARES: [Compare; 6] =
    [Compare::Equal, Compare::NotEqual, Compare::Less, Compare::LessOrEqual, Compare::Greater, Compare::GreaterOrEqual];

/// A column as it is.
pub fn column(columns: &[(String, Type)], name: &str) -> Named {
    let (name, data_type) = columns.iter().find(|(column, _)| column == name).expect("is a column");
    Named { name: name.clone(), data_type: *data_type, expr: Expr::column(name) }
}

/// A condition that never fails.
pub fn boolean(columns: &[(String, Type)], depth: u32, style: &Style, dice: &mut Dice) -> Expr {
    if depth > 0 && dice.chance(40) {
        let a = Box::new(boolean(columns, depth - 1, style, dice));
        return match dice.below(3) {
            0 => Expr::And(a, Box::new(boolean(columns, depth - 1, style, dice))),
            1 => Expr::Or(a, Box::new(boolean(columns, depth - 1, style, dice))),
            _ => Expr::Not(a),
        };
    }
    if columns.is_empty() {
        return Expr::Compare(Compare::Less, Box::new(Expr::long(1)), Box::new(Expr::long(2)));
    }
    let (name, data_type) = dice.pick(columns);
    let value = Expr::column(&name);
    let compare = |op, literal| Expr::Compare(op, Box::new(value.clone()), Box::new(literal));
    let op = dice.pick(&COMPARES);
    match data_type {
        _ if dice.chance(15) => {
            let null = Expr::IsNull(Box::new(value));
            if dice.chance(50) { Expr::Not(Box::new(null)) } else { null }
        }
        Type::Bool => value,
        Type::Long => compare(op, Expr::long(dice.pick(&[-3, 0, 1, 2, 5, 20, 1_000_000]))),
        Type::Int => compare(op, Expr::Literal(Value::Int(dice.pick(&[-2, 0, 3, 7])), Type::Int)),
        Type::Text => compare(op, Expr::Literal(Value::Text(dice.pick(&["", "a", "b", "it's", "é"]).to_owned()), Type::Text)),
        Type::Double if !style.wild => {
            compare(op, Expr::Literal(Value::Double(dice.pick(&[-2.25, 0.0, 0.3, 7.5])), Type::Double))
        }
        _ => Expr::Not(Box::new(Expr::IsNull(Box::new(value)))),
    }
}

/// A check of a stream: most records pass it; now and then it fails on a record.
pub fn check(columns: &[(String, Type)], style: &Style, dice: &mut Dice) -> Expr {
    let numbers: Vec<_> = columns.iter().filter(|(_, t)| matches!(t, Type::Long | Type::Int)).cloned().collect();
    if numbers.is_empty() || dice.chance(20) {
        return boolean(columns, 1, style, dice);
    }
    let (name, data_type) = dice.pick(&numbers);
    let value = Expr::column(&name);
    match data_type {
        Type::Int => Expr::Compare(
            Compare::GreaterOrEqual,
            Box::new(value),
            Box::new(Expr::Literal(Value::Int(dice.pick(&[-3, 0])), Type::Int)),
        ),
        _ if dice.chance(15) => {
            let doubled = Expr::Arithmetic(Arithmetic::Multiply, Box::new(value), Box::new(Expr::long(1_000)));
            Expr::Compare(Compare::Greater, Box::new(doubled), Box::new(Expr::long(-4_000)))
        }
        _ => Expr::Compare(Compare::Greater, Box::new(value), Box::new(Expr::long(dice.pick(&[-4, -1])))),
    }
}

/// A comparison whose arithmetic may fail.
pub fn failing_condition(columns: &[(String, Type)], style: &Style, dice: &mut Dice) -> Expr {
    let sum = long(columns, 2, style, dice);
    Expr::Compare(dice.pick(&COMPARES), Box::new(sum), Box::new(Expr::long(dice.pick(&[0, 3, 10]))))
}

/// An expression of any type.
pub fn expression(columns: &[(String, Type)], style: &Style, dice: &mut Dice) -> (Expr, Type) {
    match dice.below(6) {
        0..=2 => (long(columns, 2, style, dice), Type::Long),
        3 => (text(columns, style, dice), Type::Text),
        4 => (double(columns, style, dice), Type::Double),
        _ => (boolean(columns, 2, style, dice), Type::Bool),
    }
}

/// Arithmetic that may fail.
pub fn long(columns: &[(String, Type)], depth: u32, style: &Style, dice: &mut Dice) -> Expr {
    let numbers: Vec<_> = columns.iter().filter(|(_, t)| matches!(t, Type::Long | Type::Int)).cloned().collect();
    if numbers.is_empty() {
        // Alone, a small number is an INT: it would be no key of format long.
        return Expr::ToLong(Box::new(Expr::long(dice.between(0, 9))));
    }
    if depth == 0 {
        let (name, data_type) = dice.pick(&numbers);
        let value = Expr::column(&name);
        return if data_type == Type::Int { Expr::ToLong(Box::new(value)) } else { value };
    }
    let below = |dice: &mut Dice| Box::new(long(columns, depth - 1, style, dice));
    let a = below(dice);
    let small = Box::new(Expr::long(dice.between(2, 7)));
    match dice.below(10) {
        0 => Expr::Coalesce(a, Box::new(Expr::long(-1))),
        1 | 2 => {
            let b = below(dice);
            Expr::Case(Box::new(boolean(columns, 1, style, dice)), a, b)
        }
        3 => Expr::Arithmetic(Arithmetic::Remainder, a, small),
        4 => {
            // Division where it may.
            let b = below(dice);
            let guard = Expr::Compare(Compare::NotEqual, b.clone(), Box::new(Expr::long(0)));
            let quotient = Expr::Arithmetic(Arithmetic::Divide, a, b);
            Expr::Case(Box::new(guard), Box::new(quotient), Box::new(Expr::long(0)))
        }
        5 => Expr::Arithmetic(Arithmetic::Divide, a, below(dice)),
        6 => Expr::Arithmetic(Arithmetic::Multiply, a, small),
        7 => Expr::Arithmetic(Arithmetic::Add, a, below(dice)),
        8 => Expr::Arithmetic(Arithmetic::Subtract, a, small),
        _ => *a,
    }
}

fn text(columns: &[(String, Type)], style: &Style, dice: &mut Dice) -> Expr {
    let texts: Vec<_> = columns.iter().filter(|(_, t)| *t == Type::Text).cloned().collect();
    let literal = |text: &str| Expr::Literal(Value::Text(text.to_owned()), Type::Text);
    if texts.is_empty() {
        return Expr::Case(Box::new(boolean(columns, 1, style, dice)), Box::new(literal("yes")), Box::new(literal("no")));
    }
    let (name, _) = dice.pick(&texts);
    let value = Box::new(Expr::column(&name));
    match dice.below(4) {
        0 => Expr::Upper(value),
        1 => Expr::Concat(value, Box::new(literal("-x"))),
        2 => Expr::Coalesce(value, Box::new(literal("none"))),
        _ => Expr::Case(Box::new(boolean(columns, 1, style, dice)), value, Box::new(literal("else"))),
    }
}

fn double(columns: &[(String, Type)], style: &Style, dice: &mut Dice) -> Expr {
    let doubles: Vec<_> = columns.iter().filter(|(_, t)| *t == Type::Double).cloned().collect();
    let literal = Box::new(Expr::Literal(Value::Double(dice.pick(&[0.5, 2.0, 1.1])), Type::Double));
    if doubles.is_empty() {
        return *literal;
    }
    let (a, b) = (dice.pick(&doubles).0, dice.pick(&doubles).0);
    let (a, b) = (Box::new(Expr::column(&a)), Box::new(Expr::column(&b)));
    match dice.below(4) {
        0 => Expr::Arithmetic(Arithmetic::Multiply, a, literal),
        1 => Expr::Arithmetic(Arithmetic::Add, a, b),
        2 => Expr::Coalesce(a, literal),
        _ => Expr::Case(Box::new(boolean(columns, 1, style, dice)), a, b),
    }
}
