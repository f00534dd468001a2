
# Agents' names, which only the daemon knows: all of them for administrators, and for others those that their
# shell can act as. The answer is waited for at most two seconds.
function __hostbadge_agent_names
    set -l names (timeout 2 hostbadge agent list 2>/dev/null | sed 1d | cut -d' ' -f1)
    if test -z "$names"
        set names (timeout 2 hostbadge whoami --json 2>/dev/null |
            sed -n 's/.*"agents":\[\([^]]*\)\].*/\1/p' | tr -d '"' | tr , '\n')
    end
    printf '%s\n' $names
end
complete -c hostbadge -n "__fish_seen_subcommand_from agent; and __fish_seen_subcommand_from show" -f -a "(__hostbadge_agent_names)"
complete -c hostbadge -n "__fish_seen_subcommand_from token certificate review" -l agent -x -a "(__hostbadge_agent_names)"
